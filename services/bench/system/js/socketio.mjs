// A Socket.IO server as its documentation has it: a token is checked before a client
// is let in, rooms are channels, and backend services publish by an HTTP endpoint.
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import jwt from "jsonwebtoken";
import { Server } from "socket.io";

const key = readFileSync(process.env.KEY);
const clients = createServer();
const io = new Server(clients, {
  transports: ["websocket"],
  serveClient: false,
  pingInterval: Number(process.env.PING_INTERVAL ?? 25_000),
});

io.use((socket, next) => {
  try {
    socket.data.user = jwt.verify(socket.handshake.auth.token, key, { algorithms: ["HS256"] }).sub;
    next();
  } catch (error) {
    next(error);
  }
});

io.on("connection", (socket) => {
  socket.on("subscribe", (channels, done) => {
    socket.join(channels);
    done();
  });
});

const backends = createServer((request, response) => {
  const chunks = [];
  request.on("data", (chunk) => chunks.push(chunk));
  request.on("end", () => {
    io.to(request.url.slice(1)).emit("message", Buffer.concat(chunks).toString());
    response.writeHead(204).end();
  });
});

for (const [on, server] of Object.entries({ clients, backends })) {
  server.keepAliveTimeout = 60_000;
  server.listen({ port: 0, host: "127.0.0.1", backlog: 4096 }, () => {
    const { address, port } = server.address();
    console.log(JSON.stringify({ msg: "listening", on, address: `${address}:${port}` }));
  });
}

for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => process.exit(0));
