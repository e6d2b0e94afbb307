package load

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	publishv1 "github.com/carillon-rt/carillon/gen/carillon/publish/v1"
	"github.com/carillon-rt/carillon/services/chaos/checker"
	"github.com/carillon-rt/carillon/services/chaos/fleet"
	"github.com/carillon-rt/carillon/services/internal/fault"
)

// patience is for how long a publisher tries to have a message stored (docs/protocol.md).
const patience = 90 * time.Second

// publisher is how the messages of the backend are signed.
const publisher = "service:" + fleet.Caller

// contentOf is the checker's hash of a payload.
func contentOf(json string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(json)) // never fails
	return h.Sum64()
}

// source makes the messages of a lane. It is for one goroutine.
type source struct {
	load          *Load
	lane          string
	random        *rand.Rand
	interval      time.Duration
	channels      []string
	inboxes, ttls bool
	n             int
}

// message is one to be published, and what has become of it.
type message struct {
	channel, id, json string
	user              string // whose inbox is meant; "" for none
	ttl               time.Duration
	attempt           *checker.Attempt
	until             time.Time // to be tried; zero: not tried yet
	unknown           bool
}

// ticks tell when a message is due; several may be at once.
func (s *source) ticks(burst int) *time.Ticker {
	return time.NewTicker(s.interval * time.Duration(burst))
}

// next makes a message.
func (s *source) next() *message {
	m := &message{channel: s.channels[s.random.IntN(len(s.channels))]}
	switch chance := s.random.IntN(100); {
	case chance < 5 && s.inboxes:
		m.user = userName(s.random.IntN(s.load.options.Clients))
		m.channel = fleet.Inbox + "." + m.user
	case chance < 10 && s.ttls:
		m.ttl = time.Duration(1+s.random.IntN(10)) * time.Second
	}
	s.fill(m, 0)
	return m
}

// fill gives a message its id and content, which says how it was sent.
func (s *source) fill(m *message, after uint64) {
	s.n++
	m.id = fmt.Sprintf("%s/%d", s.lane, s.n)
	m.json = fmt.Sprintf(`{"lane":%q,"n":%d,"after":%d,"sent":%d}`, s.lane, s.n, after, time.Now().UnixMilli())
}

// begin tells the checker of a message, before it is sent for the first time.
func (m *message) begin(s *source, by string) {
	m.until = time.Now().Add(patience)
	m.attempt = s.load.options.Check.Attempt(checker.Publication{
		Channel: m.channel, Publisher: by, ID: m.id, Lane: s.lane, Content: contentOf(m.json), TTL: m.ttl,
	})
}

func (m *message) request() *publishv1.PublishRequest {
	request := &publishv1.PublishRequest{
		Target: &publishv1.PublishRequest_Channel{Channel: m.channel}, Payload: &publishv1.PublishRequest_Json{Json: m.json}, MessageId: m.id,
	}
	if m.user != "" {
		request.Target = &publishv1.PublishRequest_UserId{UserId: m.user}
	}
	if m.ttl > 0 {
		request.Ttl = durationpb.New(m.ttl)
	}
	return request
}

// stored takes an answer.
func (m *message) stored(r *publishv1.PublishResponse) {
	m.attempt.Acked(r.GetEpoch(), r.GetOffset(), r.GetDuplicate())
}

// refused takes a refusal and tells whether to try again: not if it is final, or if
// this has been tried for long enough.
func (m *message) refused(code codes.Code, reason fault.Reason) (again bool) {
	again = true
	switch {
	case reason == fault.PublishOvertaken:
		again = false
	case reason == fault.EarlierPublishUnknown || reason == fault.AuthorizationUnavailable: // was not stored
	case code == codes.Unavailable || code == codes.DeadlineExceeded || code == codes.Internal || code == codes.Unknown || code == codes.Canceled:
		m.unknown = true
	case code == codes.Unauthenticated || code == codes.Aborted || code == codes.ResourceExhausted:
	default:
		again = false
	}
	if again && time.Now().Before(m.until) {
		return true
	}
	m.abandon()
	return false
}

// abandon is the end of the attempts without an answer.
func (m *message) abandon() {
	if m.unknown {
		m.attempt.Unknown()
	} else {
		m.attempt.Refused()
	}
}

// backoff is how long a publisher waits after so many failures.
func backoff(random *rand.Rand, failures int) time.Duration {
	return time.Duration(random.Int64N(int64(min(2*time.Second, 100*time.Millisecond<<min(failures, 6)))) + 1)
}
