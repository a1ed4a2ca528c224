// Holds each ServiceMonitor of built manifests against the schema of the Prometheus operator.
import { readFileSync } from 'node:fs';
import { parseAllDocuments } from 'yaml';
import { ServiceMonitor } from '@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/ServiceMonitor';

for (const file of process.argv.slice(2)) {
  const objects = parseAllDocuments(readFileSync(file, 'utf8')).map((document) => document.toJS());
  const monitors = objects.filter(({ kind }) => kind === 'ServiceMonitor');
  if (monitors.length !== 1) throw new Error(`${file}: ${monitors.length} ServiceMonitors`);
  new ServiceMonitor(monitors[0]).validate();
}
