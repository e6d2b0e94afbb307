package stream

import (
	"context"
	"encoding/json"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/carillon-rt/carillon/services/internal/message"
)

const (
	// peersSubject is where stores ask each other how far the streams go.
	peersSubject = "rt.ctl.known"
	// peersWait is how long a store that connects waits for their answers.
	peersWait = 200 * time.Millisecond
	// maxPeers bounds the answers.
	maxPeers = 10_000
)

// knowledge is how far a stream goes, as a store knows it.
type knowledge struct {
	Epoch message.Epoch  `json:"epoch"`
	Known message.Offset `json:"known"`
}

// answerPeers tells others what this store knows of its streams. One that has just been
// started knows nothing that could contradict a stream which was set back while it was
// away.
func (s *Store) answerPeers() error {
	_, err := s.publisher.nc.Subscribe(peersSubject, func(m *nats.Msg) {
		known := make(map[string]knowledge, len(s.groups))
		for _, g := range s.groups {
			for _, p := range g.partitions {
				if l := p.latest.Load(); l != nil {
					known[p.stream] = knowledge{l.epoch, l.highest()}
				}
			}
		}
		if text, err := json.Marshal(known); err == nil { // always
			_ = m.Respond(text) // who asked waits no longer than it does
		}
	})
	return err
}

// askPeers returns what others know of the streams, an entry for each that answers.
func askPeers(ctx context.Context, nc *nats.Conn) map[string][]knowledge {
	ctx, cancel := context.WithTimeout(ctx, peersWait)
	defer cancel()
	all := map[string][]knowledge{}
	sub, err := nc.SubscribeSync(nc.NewInbox())
	if err != nil {
		return all
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only with the connection
	if err := nc.PublishRequest(peersSubject, sub.Subject, nil); err != nil {
		return all
	}
	for range maxPeers {
		m, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			break
		}
		var known map[string]knowledge
		if json.Unmarshal(m.Data, &known) != nil {
			continue
		}
		for stream, k := range known {
			all[stream] = append(all[stream], k)
		}
	}
	return all
}

// learn takes over what others knew before the stream was last asked about.
func (p *partition) learn(others []knowledge) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, k := range others {
		if l := p.memory.lineage; l != nil && l.epoch == k.Epoch && k.Known <= maxOffset {
			l.saw(k.Known)
		}
	}
}
