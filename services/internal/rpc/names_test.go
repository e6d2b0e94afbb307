package rpc_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"

	publishv1 "github.com/carillon-rt/carillon/gen/carillon/publish/v1"
	"github.com/carillon-rt/carillon/services/internal/rpc"
)

// names answers lookups of whatever name: first that it is at the one address, then at the
// other.
type names struct {
	before, after net.IP
	asked         atomic.Int32
}

// dial is net.Resolver's: what is no net.PacketConn is spoken to as over TCP.
func (n *names) dial(context.Context, string, string) (net.Conn, error) {
	near, far := net.Pipe()
	go n.answer(far)
	return near, nil
}

// answer answers one question (RFC 1035, 4.1; 4.2.2).
func (n *names) answer(conn net.Conn) {
	defer conn.Close()
	const header, lookupOfA = 12, 1
	var size [2]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return
	}
	message := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(conn, message); err != nil {
		return
	}
	end := header
	for message[end] != 0 { // labels
		end += 1 + int(message[end])
	}
	kind := binary.BigEndian.Uint16(message[end+1:])
	reply := append([]byte{}, message[:end+5]...)
	copy(reply[2:header], []byte{0x84, 0x80, 0, 1, 0, 0, 0, 0, 0, 0}) // an answer, with the question
	if kind == lookupOfA {
		at := n.before
		if n.asked.Add(1) > 1 {
			at = n.after
		}
		reply[7] = 1
		reply = append(reply, 0xc0, header, 0, lookupOfA, 0, 1, 0, 0, 0, 0, 0, 4)
		reply = append(reply, at.To4()...)
	}
	_, _ = conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...)) // it may have gone
}

// A server that comes back at another IP address, as one in Kubernetes does, is found there.
func TestDialImpatientlyLooksUpNames(t *testing.T) { //nolint:paralleltest // it replaces net.DefaultResolver
	address, _ := listenAndServe(t, "moved")
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	lookup := &names{before: net.IPv4(127, 0, 0, 2), after: net.IPv4(127, 0, 0, 1)}
	before := net.DefaultResolver
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: lookup.dial}
	defer func() { net.DefaultResolver = before }()
	conn, err := rpc.Dial([]string{"replica.test:" + port}, credentials("Bearer good"), rpc.Impatient)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	answer, err := publishv1.NewPublishServiceClient(conn).Publish(ctx, request(), grpc.WaitForReady(true))
	if err = errors.Join(err, conn.Close()); err != nil || answer.GetEpoch() != "moved" || lookup.asked.Load() < 2 {
		t.Errorf("%v, %v after %d lookups", answer, err, lookup.asked.Load())
	}
}
