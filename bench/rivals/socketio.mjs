// socket.io on Node, over WebSocket alone.

import { createServer } from "node:http";
import { Server } from "socket.io";
import { admit, listen } from "./job.mjs";

const server = createServer();
const io = new Server(server, {
  maxHttpBufferSize: 4096,
  perMessageDeflate: false,
  serveClient: false,
  transports: ["websocket"],
});

io.use((socket, next) => {
  socket.data.session = admit(socket.handshake.headers.cookie);
  next(socket.data.session ? undefined : new Error("no session"));
});
io.on("connection", (socket) => {
  const { session } = socket.data;
  socket.on("ping", (ping, answer) => answer(session.beat(ping.n)));
  socket.emit("hello", session.hello());
});

listen(server);
