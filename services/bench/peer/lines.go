//go:build linux

package peer

import (
	"bufio"
	"bytes"
	"net"
)

// maxLine bounds what a backend service says at once: one message, or several.
const maxLine = 256 << 10

// serveBackends takes messages from backend services, each a line of "PUB channel
// message", and answers each by a line of "OK" when it is delivered. Messages that have
// come together are delivered together.
func serveBackends(listener net.Listener, deliver delivery) error {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go serveBackend(conn, deliver) // until the service closes
	}
}

func serveBackend(conn net.Conn, deliver delivery) {
	defer conn.Close()
	reader := bufio.NewReaderSize(conn, maxLine)
	for {
		if _, err := reader.Peek(1); err != nil {
			return
		}
		came, _ := reader.Peek(reader.Buffered())
		end := bytes.LastIndexByte(came, '\n') + 1
		if end == 0 { // the rest is on its way
			if _, err := reader.Peek(len(came) + 1); err != nil {
				return
			}
			continue
		}
		count := deliverLines(came[:end], deliver)
		_, _ = reader.Discard(end)
		if _, err := conn.Write(bytes.Repeat([]byte("OK\n"), count)); err != nil {
			return
		}
	}
}

// deliverLines delivers messages one after the other, those together that are for the
// same channel, and counts them.
func deliverLines(lines []byte, deliver delivery) (count int) {
	var (
		channel  []byte
		messages [][]byte
	)
	for line := range bytes.Lines(lines) {
		count++
		to, message, _ := bytes.Cut(bytes.TrimPrefix(bytes.TrimSuffix(line, []byte("\n")), []byte("PUB ")), []byte(" "))
		if len(messages) > 0 && !bytes.Equal(to, channel) {
			deliver(string(channel), messages)
			messages = messages[:0]
		}
		channel, messages = to, append(messages, message)
	}
	deliver(string(channel), messages)
	return count
}
