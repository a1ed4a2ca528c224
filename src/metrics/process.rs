//! What the system tells of this process.

use prometheus::core::{Collector, Desc};
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::{Counter, MetricFamily};
use rustix::time::{ClockId, clock_gettime};

const PROCESSOR_TIME: &str = "process_cpu_seconds_total";

/// [`ProcessCollector`] with processor time to the nanosecond. Its own counts whole seconds: of a process that takes a few
/// hundredths of one between two scrapes, a rate shows nothing for long and then a peak that never was.
pub(super) struct ThisProcess(ProcessCollector);

impl ThisProcess {
    pub fn new() -> ThisProcess {
        ThisProcess(ProcessCollector::for_self())
    }
}

impl Collector for ThisProcess {
    fn desc(&self) -> Vec<&Desc> {
        self.0.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut families = self.0.collect();
        let time = clock_gettime(ClockId::ProcessCPUTime);
        for family in families.iter_mut().filter(|family| family.name() == PROCESSOR_TIME) {
            for metric in family.mut_metric() {
                let mut counter = Counter::default();
                counter.set_value(time.tv_sec as f64 + time.tv_nsec as f64 / 1e9);
                metric.set_counter(counter);
            }
        }
        families
    }
}
