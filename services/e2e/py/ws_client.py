"""A client of the protocol that shares no code with Carillon: Debian's
python3-websockets and docs/protocol.md.

  ws_client.py --url ws://.../v1/ws --token JWT --channel NAME [--count N]
               [--via header,subprotocol,frame]

Opens one connection for each way of sending the token, says connect, subscribe and
ping on each, and prints "ready". Then prints every message as one line
{"via":...,"message":...} until each connection has got N, leaves, and exits 0; 1
with a reason on standard error where the server does not keep to the protocol.
"""

import argparse
import asyncio
import itertools
import json
import sys

import websockets

SUBPROTOCOL = "carillon.v1.json"
DEADLINE_SECONDS = 60
REPLY_SECONDS = 10


class ProtocolError(Exception):
    pass


def check(condition, complaint, seen):
    if not condition:
        raise ProtocolError(f"{complaint}: {seen!r}")


class Client:
    def __init__(self, options, via):
        self.options = options
        self.via = via
        self.ids = itertools.count(1)
        self.waiting = []  # messages that came before the reply that was waited for
        self.offset = 0

    async def open(self):
        headers, protocols = {}, [SUBPROTOCOL]
        if self.via == "header":
            headers["Authorization"] = f"Bearer {self.options.token}"
        if self.via == "subprotocol":
            protocols.append(f"carillon.bearer.{self.options.token}")
        self.socket = await websockets.connect(self.options.url, extra_headers=headers, subprotocols=protocols)
        check(self.socket.subprotocol == SUBPROTOCOL, "another subprotocol was chosen", self.socket.subprotocol)

    async def follow(self):
        connect = {"client": {"name": "python3-websockets", "version": websockets.__version__[:64]}}
        if self.via == "frame":
            connect["token"] = self.options.token
        connected = await self.command("connect", connect, "connected")
        check(connected.get("connectionId") and connected.get("userId"), "not a connected reply", connected)
        subscribed = await self.command("subscribe", {"channel": self.options.channel}, "subscribed")
        check(subscribed.get("channel") == self.options.channel, "another channel was subscribed", subscribed)
        self.offset = subscribed.get("offset", 0)
        await self.command("ping", {}, "pong")

    async def receive(self):
        for _ in range(self.options.count):
            message = self.waiting.pop(0) if self.waiting else None
            while message is None:
                message = self.message_of(await self.frame())
            offset = message.get("offset")
            check(offset is None or offset > self.offset, f"an offset that does not increase from {self.offset}", message)
            self.offset = offset or 0
            print(json.dumps({"via": self.via, "message": message}), flush=True)

    async def leave(self):
        await self.command("unsubscribe", {"channel": self.options.channel}, "unsubscribed")
        await self.socket.close(1000)

    async def command(self, name, body, reply_name):
        request = next(self.ids)
        await self.socket.send(json.dumps({"id": request, name: body}))
        return await asyncio.wait_for(self.reply(request, reply_name), REPLY_SECONDS)

    async def reply(self, request, name):
        while True:
            frame = await self.frame()
            if "id" not in frame:
                message = self.message_of(frame)
                if message is not None:
                    self.waiting.append(message)
                continue
            check(frame["id"] == request, f"not the reply to {request}", frame)
            check(name in frame, f"not a reply {name}", frame)
            return frame[name]

    async def frame(self):
        text = await self.socket.recv()
        check(isinstance(text, str), "a binary message on the JSON subprotocol", text)
        return json.loads(text)

    def message_of(self, frame):
        message = frame.get("message")
        return message if message and message["channel"] == self.options.channel else None


async def run(options):
    clients = [Client(options, via) for via in options.via.split(",")]

    async def begin(client):
        await client.open()
        await client.follow()

    await asyncio.gather(*(begin(client) for client in clients))
    print("ready", flush=True)
    await asyncio.gather(*(client.receive() for client in clients))
    await asyncio.gather(*(client.leave() for client in clients))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True)
    parser.add_argument("--token", required=True)
    parser.add_argument("--channel", required=True)
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--via", default="header,subprotocol,frame")
    options = parser.parse_args()
    try:
        asyncio.run(asyncio.wait_for(run(options), DEADLINE_SECONDS))
    except asyncio.TimeoutError:
        sys.exit("the server did not answer, or not enough messages came, in time")
    except (ProtocolError, OSError, websockets.WebSocketException) as err:
        sys.exit(f"{type(err).__name__}: {err}")


if __name__ == "__main__":
    main()
