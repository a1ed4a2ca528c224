// Reads an AsyncAPI document as its users' tools do; any finding is a failure.
import { Parser, fromFile } from '@asyncapi/parser';

const { document, diagnostics } = await fromFile(new Parser(), process.argv[2]).parse();
for (const { code, message, path } of diagnostics) console.log(`${code}: ${message} (${path.join('/')})`);
process.exitCode = document && diagnostics.length === 0 ? 0 : 1;
