'use strict';
// Loaded before Microsoft's libraries (node --require): no connection leaves this machine.
//
// ORACLE_ROUTES is {"<host>:<port>": <port on loopback>}. A connection to a host in it goes to
// that port, with the name for TLS left as it is; any other connection fails.

const net = require('node:net');

const routes = JSON.parse(process.env.ORACLE_ROUTES);
const connect = net.Socket.prototype.connect;

net.Socket.prototype.connect = function rerouted(...args) {
  // Every way to connect ends here; net.connect has put its arguments into one array by then.
  const options = Array.isArray(args[0]) ? args[0][0] : args[0];
  const name = `${options.host}:${options.port}`;
  if (!(name in routes)) {
    process.nextTick(() => this.destroy(new Error(`no route to ${name}`)));
    return this;
  }
  Object.assign(options, { host: '127.0.0.1', port: routes[name] });
  return connect.apply(this, args);
};
