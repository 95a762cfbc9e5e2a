// Runs Actual's server, and does two things for it that it does not do itself.

import fs from 'node:fs/promises';
import { Server } from 'node:net';

// An uploaded budget file takes the place of the one that was there when it is on the disk as a whole, and not before:
// whatever ends the machine meanwhile, one of the two is left.
const { writeFile } = fs;
let written = 0;
fs.writeFile = async (path, content, ...options) => {
  if (typeof path !== 'string' || !path.endsWith('.blob')) return writeFile(path, content, ...options);
  written += 1;
  const next = `${path}.${written}`;
  await writeFile(next, content, { flush: true });
  await fs.rename(next, path);
};

// A stop is in order: what is being uploaded is taken to its end. As the first process of a PID namespace it would not
// even get a signal that it has no handler for.
const { listen } = Server.prototype;
Server.prototype.listen = function (...where) {
  process.once('SIGTERM', () => this.close(() => process.exit(0)));
  return listen.apply(this, where);
};

await import('@actual-app/sync-server/build/app.js');
