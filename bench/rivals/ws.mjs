// Node's ws, as its documentation has it for an HTTP server with authentication.

import { createServer } from "node:http";
import { WebSocketServer } from "ws";
import { admit, listen } from "./job.mjs";

const server = createServer();
const sockets = new WebSocketServer({ noServer: true, perMessageDeflate: false, maxPayload: 4096 });

server.on("upgrade", (request, connection, head) => {
  const session = admit(request.headers.cookie);
  if (session === undefined) {
    connection.end("HTTP/1.1 401 Unauthorized\r\n\r\n");
    return;
  }
  sockets.handleUpgrade(request, connection, head, (socket) => {
    socket.on("message", (data) => {
      const ping = JSON.parse(data);
      if (ping.type === "ping") socket.send(JSON.stringify(session.beat(ping.n)));
    });
    socket.on("error", () => {}); // who leaves without a word is no event
    socket.send(JSON.stringify(session.hello()));
  });
});

listen(server);
