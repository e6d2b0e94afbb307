//go:build linux

package system

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"

	"github.com/carillon-rt/carillon/services/bench/process"
)

// alone is a system of one process, and where that listens.
type alone struct {
	process   *process.Process
	addresses map[string]string
}

func (a *alone) Processes() []*process.Process { return []*process.Process{a.process} }

func (a *alone) Stop() { a.process.Stop() }

// startAlone starts a process that says, as Carillon does, where it listens.
func startAlone(ctx context.Context, name string, environ []string, listeners []string, program string, arguments ...string) (*alone, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	p, err := process.Start(name, environ, program, arguments...)
	if err != nil {
		return nil, err
	}
	a := &alone{p, map[string]string{}}
	for _, on := range listeners {
		if a.addresses[on], err = listening(ctx, p, on); err != nil {
			p.Stop()
			return nil, err
		}
	}
	return a, nil
}

// startPeer starts a server of the package peer.
func startPeer(ctx context.Context, o Options, name string, listeners ...string) (*alone, error) {
	return startAlone(ctx, name, nil, listeners, o.Carillon, "bench", "serve", name)
}

// listening waits until a process says where it listens.
func listening(ctx context.Context, p *process.Process, on string) (string, error) {
	line, err := p.Line(ctx, `"msg":"listening"`, fmt.Sprintf(`"on":%q`, on))
	if err != nil {
		return "", err
	}
	var entry struct {
		Address string `json:"address"`
	}
	if err := json.Unmarshal([]byte(line), &entry); err != nil {
		return "", fmt.Errorf("%s: %w", line, err)
	}
	return entry.Address, nil
}

// linesPublisher publishes to a server of the package peer over one connection, on
// which answers come in order.
type linesPublisher struct {
	conn  net.Conn
	ended chan struct{}

	mu      sync.Mutex
	waiting chan chan struct{} // who waits for answers, in order
}

// maxUnanswered bounds who waits; who comes then waits to publish.
const maxUnanswered = 4096

func dialLines(ctx context.Context, address string) (*linesPublisher, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp4", address)
	if err != nil {
		return nil, err
	}
	p := &linesPublisher{conn: conn, ended: make(chan struct{}), waiting: make(chan chan struct{}, maxUnanswered)}
	go func() {
		defer close(p.ended)
		for answers := bufio.NewScanner(conn); answers.Scan(); {
			close(<-p.waiting)
		}
	}()
	return p, nil
}

// Publish returns when the message is written to every client's socket.
func (p *linesPublisher) Publish(ctx context.Context, channel string, message []byte) (Place, error) {
	answer := make(chan struct{})
	p.mu.Lock()
	p.waiting <- answer
	_, err := fmt.Fprintf(p.conn, "PUB %s %s\n", channel, message)
	p.mu.Unlock()
	if err != nil {
		return Place{}, err
	}
	select {
	case <-answer:
		return Place{}, nil
	case <-p.ended:
		return Place{}, errors.New("the server closed")
	case <-ctx.Done():
		return Place{}, ctx.Err()
	}
}

func (p *linesPublisher) Close() error {
	err := p.conn.Close()
	<-p.ended
	return err
}
