package edge

import (
	"container/list"
	"context"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/carillon-rt/carillon/services/edge/socket"
	"github.com/carillon-rt/carillon/services/internal/fault"
)

// handshakes are the connections that have not said connect: while they shake hands,
// wait with an HTTP answer, or are told why they are refused. Its methods may be called
// concurrently.
type handshakes struct {
	most int // 0: no bound

	mu       sync.Mutex
	arrivals map[net.Conn]*arrival     // those of net/http
	all      list.List                 // of *arrival, the oldest first
	own      map[netip.Addr]*list.List // the same of each peer's address
}

// arrival is a connection in handshakes.
type arrival struct {
	conn   net.Conn
	peer   netip.Addr
	inAll  *list.Element // nil once it has ended
	inOwn  *list.Element
	socket *socket.Socket // that it has become; nil before
	// refusal is what net/http is to answer to its first request; nil: that is not known yet.
	refusal *fault.Error
}

// close ends the connection without a word, and its reader learns it. The caller holds
// handshakes.mu.
func (a *arrival) close() {
	if a.socket != nil { // its reader may be the poller, whom the system does not tell
		a.socket.Cut()
		return
	}
	_ = a.conn.Close()
}

func (h *handshakes) init(most int) {
	h.most, h.arrivals, h.own = most, map[net.Conn]*arrival{}, map[netip.Addr]*list.List{}
}

// crowd is the part of all handshakes that makes an address pay for a new one itself,
// so that nobody alone can have the others' closed.
const crowd = 8

// begin takes a connection in, and closes an old one if there are too many: the oldest,
// or the oldest of its own address if that has many.
func (h *handshakes) begin(conn net.Conn) (_ *arrival, closed bool) {
	raw := rawConn(conn)
	a := &arrival{conn: raw, peer: countedAs(peerOf(raw))}
	h.mu.Lock()
	defer h.mu.Unlock()
	own, known := h.own[a.peer]
	if h.most > 0 && h.all.Len() >= h.most {
		victims := &h.all
		if known && own.Len() > h.most/crowd {
			victims = own
		}
		victim, _ := victims.Front().Value.(*arrival)
		h.remove(victim)
		victim.close()
		closed = true
		own, known = h.own[a.peer]
	}
	if !known {
		own = list.New()
		h.own[a.peer] = own
	}
	a.inAll, a.inOwn = h.all.PushBack(a), own.PushBack(a)
	return a, closed
}

// follow has net/http tell of a connection.
func (h *handshakes) follow(conn net.Conn, a *arrival) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.arrivals[conn] = a
}

// upgraded notes what a connection has become, which ends if the connection had to make
// room meanwhile; nil is fine.
func (h *handshakes) upgraded(a *arrival, to *socket.Socket) {
	if a == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if a.socket = to; a.inAll == nil {
		to.Cut()
	}
}

// end lets a connection go on, or go; nil and one that has ended are fine.
func (h *handshakes) end(a *arrival) {
	if a == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.remove(a)
}

// remove takes an arrival out, once. The caller holds h.mu.
func (h *handshakes) remove(a *arrival) {
	if a.inAll == nil {
		return
	}
	h.all.Remove(a.inAll)
	own := h.own[a.peer]
	own.Remove(a.inOwn)
	if own.Len() == 0 {
		delete(h.own, a.peer)
	}
	a.inAll, a.inOwn = nil, nil
}

// changed follows a connection through net/http: upgraded it belongs to its session.
func (h *handshakes) changed(conn net.Conn, state http.ConnState) {
	if state != http.StateHijacked && state != http.StateClosed {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	a, ok := h.arrivals[conn]
	delete(h.arrivals, conn)
	if ok && state == http.StateClosed {
		h.remove(a)
	}
}

// rawConn is the connection below TLS and the PROXY protocol: to close it does not
// block, and its peer is known without reading.
func rawConn(conn net.Conn) net.Conn {
	for {
		switch c := conn.(type) {
		case interface{ NetConn() net.Conn }:
			conn = c.NetConn()
		case interface{ Raw() net.Conn }:
			conn = c.Raw()
		default:
			return conn
		}
	}
}

// arrivalKey is that of a connection's arrival in the context of its requests.
type arrivalKey struct{}

// arrive takes in a connection of which nothing has been read.
func (g *gate) arrive(conn net.Conn) *arrival {
	a, closed := g.handshakes.begin(conn)
	if closed {
		g.metrics.limited("handshakes")
		if g.slow.due(time.Now()) {
			g.logger.Warn("too many connections have not said connect: closing old ones", "limit", g.limits.MaxHandshakes, "option", "edge.max_handshakes")
		}
	}
	return a
}

// accepted is called with each connection that net/http gets, before it reads of it.
func (g *gate) accepted(ctx context.Context, conn net.Conn) context.Context {
	var a *arrival
	if from, ok := conn.(*passed); ok {
		a = from.arrival
	} else {
		a = g.arrive(conn)
	}
	g.handshakes.follow(conn, a)
	return context.WithValue(ctx, arrivalKey{}, a)
}

// refused returns once what was decided about the connection; nil is fine.
func (a *arrival) refused() *fault.Error {
	if a == nil {
		return nil
	}
	refusal := a.refusal
	a.refusal = nil
	return refusal
}

func arrivalOf(ctx context.Context) *arrival {
	a, _ := ctx.Value(arrivalKey{}).(*arrival) // nil where another server has accepted it
	return a
}
