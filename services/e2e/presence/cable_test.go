package presence_test

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/carillon-rt/carillon/services/internal/rpc"
)

// condition is what a cable does with what it is given.
type condition int

const (
	passing  condition = iota
	holding            // nothing arrives, nothing is lost: a network that is away for a while
	refusing           // connections are reset, and so are new ones
)

// cable is the network between one edge and one replica. Its connections buffer without
// bound, as a kernel does for what is as little as here.
type cable struct {
	pumps sync.WaitGroup

	mu        sync.Mutex
	condition condition
	changed   chan struct{} // closed when condition or target changes
	target    *rpc.Memory   // nil: nobody listens
	links     map[*link]struct{}
	final     bool      // the condition does not change any more
	broke     time.Time // when it last stopped passing
	healed    time.Time // when it last passed again, or was new
	// ill is when it was last in, or at the end of, an outage that may cost the other side
	// an edge: one of more than hiccup, or the next within the time of silence.
	ill time.Time
}

// hiccup is how long an outage may be that nobody may notice.
const hiccup = time.Second

// link is one connection.
type link struct {
	near, far net.Conn
	ended     chan struct{}
	end       func() // resets both sides
}

func newCable() *cable {
	return &cable{changed: make(chan struct{}), links: map[*link]struct{}{}, healed: time.Now(), ill: time.Now()}
}

var errRefused = errors.New("connection refused")

// dial connects once the cable does not hold.
func (c *cable) dial(ctx context.Context) (net.Conn, error) {
	for {
		c.mu.Lock()
		now, target, changed := c.condition, c.target, c.changed
		c.mu.Unlock()
		if now == refusing || now == passing && target == nil {
			return nil, errRefused
		}
		if now == holding {
			select {
			case <-changed:
				continue
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		far, err := target.DialContext(ctx)
		if err != nil {
			return nil, errRefused
		}
		return c.link(far), nil
	}
}

func (c *cable) link(far net.Conn) net.Conn {
	ours, near := net.Pipe()
	l := &link{near: near, far: far, ended: make(chan struct{})}
	l.end = sync.OnceFunc(func() {
		close(l.ended)
		_, _ = l.near.Close(), l.far.Close() // that is all that a reset is
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	c.links[l] = struct{}{}
	for _, way := range [][2]net.Conn{{l.near, l.far}, {l.far, l.near}} {
		buffer := make(chan []byte, 1<<14)
		c.pumps.Go(func() { l.take(way[0], buffer) })
		c.pumps.Go(func() {
			c.give(l, way[1], buffer)
			l.end()
			c.mu.Lock()
			defer c.mu.Unlock()
			delete(c.links, l)
		})
	}
	return ours
}

// take reads one direction to its end.
func (l *link) take(from net.Conn, buffer chan<- []byte) {
	defer close(buffer)
	for {
		chunk := make([]byte, 4<<10)
		n, err := from.Read(chunk)
		if n > 0 {
			select {
			case buffer <- chunk[:n]:
			case <-l.ended:
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// give delivers what was taken, and that it ended, while the cable passes.
func (c *cable) give(l *link, to net.Conn, buffer <-chan []byte) {
	for {
		chunk, more := <-buffer
		if !c.awaitPassing(l) || !more {
			return
		}
		if _, err := to.Write(chunk); err != nil {
			return
		}
	}
}

// awaitPassing is false if the link has ended before.
func (c *cable) awaitPassing(l *link) bool {
	for {
		c.mu.Lock()
		now, changed := c.condition, c.changed
		c.mu.Unlock()
		if now == passing {
			return true
		}
		select {
		case <-changed:
		case <-l.ended:
			return false
		}
	}
}

// become sets the condition; refusing resets what there is.
func (c *cable) become(next condition) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.final {
		return
	}
	now := time.Now()
	switch {
	case c.condition == passing && next != passing:
		if c.broke = now; now.Sub(c.healed) < silence {
			c.ill = now
		}
	case c.condition != passing && next == passing:
		if c.healed = now; now.Sub(c.broke) > hiccup || c.ill.Equal(c.broke) {
			c.ill = now
		}
	}
	c.condition = next
	c.change()
	if next == refusing {
		c.reset()
	}
}

// end sets the condition for good.
func (c *cable) end(how condition) {
	c.become(how)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.final = true
}

// lead makes a replica, or nobody, answer at the far end; what there is, is reset.
func (c *cable) lead(to *rpc.Memory) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.target = to
	c.change()
	c.reset()
}

func (c *cable) change() {
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *cable) reset() {
	for l := range c.links {
		l.end()
	}
}

// wellFor is for how long the cable has had no outage that may be noticed; calmFor, none
// at all.
func (c *cable) wellFor() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.condition != passing && (time.Since(c.broke) > hiccup || c.ill.Equal(c.broke)) {
		return 0
	}
	return time.Since(c.ill)
}

func (c *cable) calmFor() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.condition != passing {
		return 0
	}
	return time.Since(c.healed)
}

// close resets everything and waits for what it started.
func (c *cable) close() {
	c.end(refusing)
	c.mu.Lock()
	c.reset()
	c.mu.Unlock()
	c.pumps.Wait()
}
