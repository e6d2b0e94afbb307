package stream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/carillon-rt/carillon/services/internal/message"
)

// leaderLease is how long after it has heard from most replicas the leader of a stream
// is believed: less than the 4 s after which the others may elect another
// (minElectionTimeout of nats-server 2.15), which it would not know of.
const leaderLease = 3 * time.Second

var (
	// errNotLed and errDeposed mean that the answer may be older than what others have
	// been told.
	errNotLed  = errors.New("the stream has no leader")
	errDeposed = errors.New("the stream's leader does not hear from most replicas; there may be another")
	// errDoubt and errSetBack mean that it does not hold what it should, as far as can
	// be told yet, or for sure.
	errDoubt   = errors.New("the stream ends before a message that was stored; waiting whether it comes back")
	errSetBack = errors.New("the stream was set back; an epoch begins")
)

// standing is what a stream tells of itself.
type standing struct {
	message.Bounds
	lastTime time.Time // of the message at Last
	messages uint64
	bytes    uint64
}

// witness is the last message, if it is kept.
func (s standing) witness() witness {
	if s.Last < s.First {
		return witness{}
	}
	return witness{offset: s.Last, time: s.lastTime}
}

// standingOf asks the leader of a stream, or returns errNotLed or errDeposed.
func standingOf(ctx context.Context, nc *nats.Conn, stream string) (standing, error) {
	reply, err := nc.RequestWithContext(ctx, jetstream.DefaultAPIPrefix+"STREAM.INFO."+stream, nil)
	if err != nil {
		return standing{}, err
	}
	return decodeStanding(reply.Data)
}

func decodeStanding(data []byte) (standing, error) {
	var info struct {
		Error  *jetstream.APIError `json:"error"`
		Config struct {
			Metadata map[string]string `json:"metadata"`
		} `json:"config"`
		State struct {
			FirstSeq message.Offset `json:"first_seq"`
			LastSeq  message.Offset `json:"last_seq"`
			LastTime time.Time      `json:"last_ts"`
			Messages uint64         `json:"messages"`
			Bytes    uint64         `json:"bytes"`
		} `json:"state"`
		Cluster *quorum `json:"cluster"`
	}
	if err := json.Unmarshal(data, &info); err != nil {
		return standing{}, fmt.Errorf("stream info: %w", err)
	}
	if info.Error != nil {
		return standing{}, info.Error
	}
	if err := info.Cluster.check(); err != nil {
		return standing{}, err
	}
	epochs, err := epochsOf(info.Config.Metadata)
	// A stream that never held a message says 0 where it means 1.
	bounds := message.Bounds{Epochs: epochs, First: max(info.State.FirstSeq, 1), Last: info.State.LastSeq}
	return standing{Bounds: bounds, lastTime: info.State.LastTime, messages: info.State.Messages, bytes: info.State.Bytes}, err
}

// quorum is what the leader of a stream tells of the replicas; nil where there is no
// cluster.
type quorum struct {
	Leader   string `json:"leader"`
	Replicas []struct {
		Active time.Duration `json:"active"` // since it was heard of; 0: never
	} `json:"replicas"`
}

// check returns errNotLed or errDeposed where the leader is not to be believed.
func (q *quorum) check() error {
	if q == nil {
		return nil
	}
	heard := 1
	for _, replica := range q.Replicas {
		if replica.Active > 0 && replica.Active <= leaderLease {
			heard++
		}
	}
	switch {
	case q.Leader == "":
		return errNotLed
	case 2*heard <= 1+len(q.Replicas):
		return errDeposed
	default:
		return nil
	}
}

// holds tells whether a stream has the witness; one that has been trimmed or purged
// counts as held.
func holds(ctx context.Context, nc *nats.Conn, stream string, w witness) (bool, error) {
	reply, err := nc.RequestWithContext(ctx, jetstream.DefaultAPIPrefix+"STREAM.MSG.GET."+stream, fmt.Appendf(nil, `{"seq":%d}`, w.offset))
	if err != nil {
		return false, err
	}
	var answer struct {
		Error   *jetstream.APIError `json:"error"`
		Message struct {
			Time time.Time `json:"time"`
		} `json:"message"`
	}
	switch err := json.Unmarshal(reply.Data, &answer); {
	case err != nil:
		return false, err
	case answer.Error == nil:
		return answer.Message.Time.Equal(w.time), nil
	case answer.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound:
		return true, nil
	default:
		return false, answer.Error
	}
}
