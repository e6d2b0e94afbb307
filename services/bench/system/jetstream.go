//go:build linux

package system

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/carillon-rt/carillon/services/internal/stream"
)

// JetStream is a NATS server that stores.
type JetStream struct{}

// Name is its word.
func (JetStream) Name() string { return "jetstream" }

// About says what it is.
func (JetStream) About() string {
	return "nats.go publishing into JetStream, stored in files and flushed as often as Carillon's: no authorization, no validation, no de-duplication, no clients"
}

// Start starts its process.
func (JetStream) Start(ctx context.Context, o Options) (Server, error) {
	config := fmt.Sprintf("jetstream {store_dir: %q, sync_interval: %q}\n", filepath.Join(o.Dir, "data"), stream.DefaultSyncInterval)
	n, err := startNATS(ctx, o, config, "client connections")
	return &rawJetStream{n}, err
}

type rawJetStream struct{ *alone }

// Publisher makes a stream that keeps as much as Carillon's namespaces do.
func (s *rawJetStream) Publisher(ctx context.Context) (Publisher, error) {
	conn, err := nats.Connect("nats://" + s.addresses["client connections"])
	if err != nil {
		return nil, err
	}
	p := &streamPublisher{conn: conn}
	if p.stream, err = jetstream.New(conn); err == nil {
		_, err = p.stream.CreateStream(ctx, jetstream.StreamConfig{
			Name: "bench", Subjects: []string{Shared(">")}, Storage: jetstream.FileStorage,
			MaxMsgsPerSubject: 1000, MaxAge: 24 * time.Hour, MaxBytes: 1 << 30, AllowDirect: true,
		})
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return p, nil
}

// streamPublisher publishes by JetStream.
type streamPublisher struct {
	conn   *nats.Conn
	stream jetstream.JetStream
}

func (p *streamPublisher) Publish(ctx context.Context, channel string, message []byte) (Place, error) {
	ack, err := p.stream.Publish(ctx, channel, message)
	if err != nil {
		return Place{}, err
	}
	return Place{Offset: ack.Sequence}, nil
}

// stallWait is how long a full window waits for an answer: nats.go gives up after 200 ms
// of its own, less than a machine may take that does something else.
const stallWait = time.Minute

// Pipe publishes without waiting for each answer.
func (p *streamPublisher) Pipe(ctx context.Context, channel string, message []byte, count, window int) error {
	stream, err := jetstream.New(p.conn, jetstream.WithPublishAsyncMaxPending(window))
	if err != nil {
		return err
	}
	answers := make([]jetstream.PubAckFuture, count)
	for i := range answers {
		if answers[i], err = stream.PublishAsync(channel, message, jetstream.WithStallWait(stallWait)); err != nil {
			return err
		}
	}
	select {
	case <-stream.PublishAsyncComplete():
	case <-ctx.Done():
		return ctx.Err()
	}
	for _, answer := range answers {
		select {
		case <-answer.Ok():
		case err := <-answer.Err():
			return err
		default:
			return errors.New("a message was not answered")
		}
	}
	return nil
}

func (p *streamPublisher) Close() error {
	p.conn.Close()
	return nil
}
