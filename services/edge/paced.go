package edge

import (
	"net"
	"runtime"
	"time"

	"golang.org/x/time/rate"
)

// What a processor takes in of new connections: at once, and then a second, about half
// of what it could do for their handshakes.
const (
	acceptBurst = 16
	acceptRate  = 4000
)

// paced accepts connections one after the other rather than all that have come at once:
// a thousand handshakes in the scheduler's queue would go before whatever those want who
// are connected.
type paced struct {
	net.Listener
	limiter *rate.Limiter
}

func newPaced(listener net.Listener) *paced {
	processors := runtime.GOMAXPROCS(0)
	return &paced{listener, rate.NewLimiter(rate.Limit(acceptRate*processors), acceptBurst*processors)}
}

// Accept waits for a connection, and for its turn.
func (p *paced) Accept() (net.Conn, error) {
	conn, err := p.Listener.Accept()
	if err == nil {
		time.Sleep(p.limiter.Reserve().Delay())
	}
	return conn, err
}
