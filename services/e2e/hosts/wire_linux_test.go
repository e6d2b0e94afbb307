package hosts_test

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// wireDamage is what a wire does to each frame, in each direction: what netem does, which
// not every kernel has.
type wireDamage struct {
	delay time.Duration
	loss  float64
}

const (
	// maxFrameBytes is that of the largest segment that the kernel leaves whole, with its
	// headers.
	maxFrameBytes = 64<<10 + 1<<10
	// maxUnderWay bounds the frames of one direction; what does not fit is lost.
	maxUnderWay = 4096
)

// wire carries frames between two links of this machine.
type wire struct {
	ends    []io.Closer
	running sync.WaitGroup
	stop    chan struct{}

	carried, lost atomic.Int64
}

// layWire joins two links by a wire.
func layWire(a, b string, damage wireDamage) (*wire, error) {
	near, err := openLink(a)
	if err != nil {
		return nil, err
	}
	far, err := openLink(b)
	if err != nil {
		return nil, errors.Join(err, near.Close())
	}
	return join(near, far, damage), nil
}

// join carries what one end reads to the other, frame by frame.
func join(a, b io.ReadWriteCloser, damage wireDamage) *wire {
	w := &wire{ends: []io.Closer{a, b}, stop: make(chan struct{})}
	for _, way := range [][2]io.ReadWriter{{a, b}, {b, a}} {
		due := make(chan frame, maxUnderWay)
		w.running.Go(func() { w.take(way[0], due, damage) })
		w.running.Go(func() { w.deliver(way[1], due) })
	}
	return w
}

// frame is one under way.
type frame struct {
	data []byte
	due  time.Time
}

// take reads frames until the end is closed.
func (w *wire) take(from io.Reader, to chan<- frame, damage wireDamage) {
	defer close(to)
	buffer := make([]byte, maxFrameBytes)
	for {
		n, err := from.Read(buffer)
		if errors.Is(err, unix.ENETDOWN) { // said once when a link goes down, which may come up again
			continue
		}
		if err != nil {
			return
		}
		if rand.Float64() < damage.loss {
			w.lost.Add(1)
			continue
		}
		select {
		case to <- frame{append([]byte(nil), buffer[:n]...), time.Now().Add(damage.delay)}:
		default:
			w.lost.Add(1)
		}
	}
}

// deliver writes frames when they are due. One that the link does not take is lost.
func (w *wire) deliver(to io.Writer, from <-chan frame) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for f := range from {
		timer.Reset(time.Until(f.due))
		select {
		case <-timer.C:
		case <-w.stop:
			continue // to the end of the channel
		}
		if _, err := to.Write(f.data); err != nil {
			w.lost.Add(1)
		} else {
			w.carried.Add(1)
		}
	}
}

// close loses what is under way.
func (w *wire) close() error {
	close(w.stop)
	var errs []error
	for _, end := range w.ends {
		errs = append(errs, end.Close())
	}
	w.running.Wait()
	return errors.Join(errs...)
}

// openLink returns a link's frames, packet(7), each behind what the kernel has yet to do
// to it (PACKET_VNET_HDR: checksums, cutting large segments), which goes on with it.
func openLink(name string) (io.ReadWriteCloser, error) {
	link, err := net.InterfaceByName(name)
	if err != nil {
		return nil, err
	}
	everything := uint16(unix.ETH_P_ALL>>8 | unix.ETH_P_ALL<<8&0xff00) // in network byte order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("frames of %s: %w", name, err)
	}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: everything, Ifindex: link.Index}),
	)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("frames of %s: %w", name, err), unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), name), nil
}
