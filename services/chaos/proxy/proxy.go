// Package proxy is a cable between a client and a server on TCP that can be cut, held,
// slowed down or made to lose what it carries. It knows nothing of what it carries.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// Direction is one way through a proxy; they may be combined.
type Direction int

// The directions, as seen from whoever connects.
const (
	ToServer Direction = 1 << iota
	ToClient

	Both = ToServer | ToClient
)

// kind is what a proxy does with its connections.
type kind int

const (
	passing  kind = iota
	refusing      // new connections are reset
	holding       // nothing is carried, nothing is lost
	delaying      // everything is carried later
	losing        // everything is read and thrown away in some directions
)

// state is never modified; changed is closed when another one holds.
type state struct {
	kind    kind
	delay   time.Duration
	lost    Direction
	changed chan struct{}
}

// Proxy listens on an address that stays the same, whatever becomes of its target. Its
// methods may be called concurrently; none waits for a connection but Close.
type Proxy struct {
	listener net.Listener
	running  sync.WaitGroup
	closed   chan struct{}

	mu     sync.Mutex
	target string
	state  *state
	links  map[*link]struct{}
}

// New returns a proxy on a port of the loopback interface. It refuses everybody until
// it has a target.
func New() (*Proxy, error) {
	listener, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	p := &Proxy{
		listener: listener, closed: make(chan struct{}),
		state: &state{changed: make(chan struct{})}, links: map[*link]struct{}{},
	}
	p.running.Go(p.accept)
	return p, nil
}

// Address is where clients connect, host:port.
func (p *Proxy) Address() string { return p.listener.Addr().String() }

// Target says where new connections go to; "" is nowhere: they are reset. Connections
// that exist stay with their target.
func (p *Proxy) Target(address string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = address
}

// Pass carries everything, from now on.
func (p *Proxy) Pass() { p.become(state{kind: passing}) }

// Cut resets every connection, and every new one.
func (p *Proxy) Cut() {
	p.become(state{kind: refusing})
	p.Reset()
}

// Reset resets every connection. New ones are treated as before.
func (p *Proxy) Reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.reset()
	}
}

// Hold carries nothing, until another call says otherwise; then everything goes on as
// if nothing had been, as after a short loss of the network. Ends of connections are
// held too, and new connections get no further than the proxy.
func (p *Proxy) Hold() { p.become(state{kind: holding}) }

// Delay carries everything later.
func (p *Proxy) Delay(by time.Duration) { p.become(state{kind: delaying, delay: by}) }

// Lose throws away what goes in a direction, ends of connections included. A connection
// that has lost something is reset at the next call that says otherwise.
func (p *Proxy) Lose(way Direction) { p.become(state{kind: losing, lost: way}) }

// Connections counts those that are open.
func (p *Proxy) Connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.links)
}

// Close resets every connection and returns when nothing runs any more.
func (p *Proxy) Close() error {
	err := p.listener.Close()
	close(p.closed)
	p.Cut()
	p.running.Wait()
	return err
}

func (p *Proxy) become(next state) {
	next.changed = make(chan struct{})
	p.mu.Lock()
	defer p.mu.Unlock()
	last := p.state
	p.state = &next
	close(last.changed)
	for l := range p.links {
		if l.damaged {
			l.reset()
		}
	}
}

func (p *Proxy) now() *state {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state
}

// acceptPause keeps a process that has run out of files from spinning.
const acceptPause = 50 * time.Millisecond

func (p *Proxy) accept() {
	for {
		near, err := p.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			select {
			case <-p.closed:
			case <-time.After(acceptPause):
			}
			continue
		}
		l := newLink(p, near)
		p.mu.Lock()
		p.links[l] = struct{}{}
		if p.state.kind == refusing {
			l.reset() // run ends at once
		}
		p.mu.Unlock()
		p.running.Go(l.run)
	}
}

// loses tells whether what goes a way over a link is thrown away now; the link will be
// reset when that ends. Under the lock, so that no change of state comes in between.
func (p *Proxy) loses(l *link, way Direction) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state.kind != losing || p.state.lost&way == 0 {
		return false
	}
	l.damaged = true
	return true
}

func (p *Proxy) forget(l *link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.links, l)
}
