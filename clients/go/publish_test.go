package carillon

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	clientv1 "github.com/carillon-rt/carillon/gen/carillon/client/v1"
)

const (
	earlierUnknown = clientv1.ErrorReason_ERROR_REASON_EARLIER_PUBLISH_UNKNOWN
	rateLimited    = clientv1.ErrorReason_ERROR_REASON_RATE_LIMITED
	tooLarge       = clientv1.ErrorReason_ERROR_REASON_FRAME_TOO_LARGE
)

// outcome is what a publish came to.
type outcome struct {
	id      string
	receipt Receipt
	err     error
}

// publish publishes in the background.
func (s *stage) publish(ctx context.Context, p Publication) <-chan outcome {
	done := make(chan outcome, 1)
	go func() {
		receipt, err := s.session.Publish(ctx, p)
		done <- outcome{p.MessageID, receipt, err}
	}()
	synctest.Wait()
	return done
}

// asked waits for a publish command.
func (p *peer) asked(id string) *clientv1.ClientFrame {
	p.t.Helper()
	f := p.read()
	if got := f.GetPublish(); got == nil || got.GetMessageId() != id {
		p.t.Fatalf("%v, want the publish of %s", f, id)
	}
	return f
}

func (s *stage) online() *peer {
	s.t.Helper()
	p, _ := s.accept()
	p.connected()
	want[Connected](s)
	return p
}

// A publish whose connection is lost, or whose outcome the edge does not know, is sent
// again with the same id, on any connection, until there is an answer.
func TestPublishGoesOn(t *testing.T) {
	t.Parallel()
	perform(t, SessionOptions{}, func(t *testing.T, s *stage) {
		done := s.publish(t.Context(), Publication{Channel: "chat.a", JSON: `{"n":1}`, MessageID: "m1"}) // before there is a connection
		p := s.online()
		f := p.asked("m1")
		equal(t, f.GetPublish().GetJson(), `{"n":1}`)
		p.cut() // the answer is lost
		want[Disconnected](s)
		p = s.online()
		f = p.asked("m1")
		began := time.Now()
		p.event(f.GetId(), refuse("UNAVAILABLE", unavailable, 3*time.Second))
		f = p.asked("m1")
		equal(t, time.Since(began), 3*time.Second)
		equal(t, f.GetPublish().GetJson(), `{"n":1}`)
		p.event(f.GetId(), &clientv1.PublishedReply{Epoch: "E", Offset: 7, Duplicate: true})
		equal(t, <-done, outcome{"m1", Receipt{Position{"E", 7}, true}, nil})

		done = s.publish(t.Context(), Publication{Channel: "chat.a", Data: []byte{0}, ContentType: "image/png"})
		f = p.read()
		if got := f.GetPublish(); len(got.GetMessageId()) < 20 || got.GetContentType() != "image/png" || len(got.GetData()) != 1 {
			t.Errorf("%v", got)
		}
		p.event(f.GetId(), &clientv1.PublishedReply{Epoch: "E", Offset: 8})
		equal(t, (<-done).receipt.Position.Offset, 8)
		s.goodbye(p)
	})
}

// An answer that does not come is not awaited for ever.
func TestPublishWithoutAnswer(t *testing.T) {
	t.Parallel()
	perform(t, SessionOptions{}, func(t *testing.T, s *stage) {
		p := s.online()
		done := s.publish(t.Context(), Publication{Channel: "chat.a", JSON: "1", MessageID: "m1"})
		p.asked("m1")
		began := time.Now()
		f := p.asked("m1")
		equal(t, time.Since(began), answerTimeout+firstPause)
		p.event(f.GetId(), &clientv1.PublishedReply{Epoch: "E", Offset: 1})
		equal(t, (<-done).err, nil)
		s.goodbye(p)
	})
}

// Publishes to one channel are sent one at a time and in the order of the calls, also
// while one of them is tried again; another channel does not wait for them.
func TestPublishOrder(t *testing.T) {
	t.Parallel()
	perform(t, SessionOptions{}, func(t *testing.T, s *stage) {
		p := s.online()
		var results []<-chan outcome
		for i := range 5 {
			results = append(results, s.publish(t.Context(), Publication{Channel: "chat.a", JSON: "1", MessageID: fmt.Sprint("m", i)}))
		}
		gone, leave := context.WithCancel(t.Context())
		left := s.publish(gone, Publication{Channel: "chat.a", JSON: "1", MessageID: "left"})
		leave()
		if err := (<-left).err; !errors.Is(err, context.Canceled) || errors.Is(err, ErrUnknown) {
			t.Errorf("who waited for its turn: %v", err)
		}
		f := p.asked("m0")
		p.event(f.GetId(), refuse("UNAVAILABLE", unavailable, 0))
		other := s.publish(t.Context(), Publication{Channel: "chat.b", JSON: "1", MessageID: "other"})
		f = p.asked("other")
		p.event(f.GetId(), &clientv1.PublishedReply{Epoch: "E", Offset: 1})
		<-other
		for i, done := range results {
			f = p.asked(fmt.Sprint("m", i))
			p.event(f.GetId(), &clientv1.PublishedReply{Epoch: "E", Offset: uint64(i) + 1})
			equal(t, (<-done).receipt.Position.Offset, uint64(i)+1)
		}
		synctest.Wait()
		if n := len(s.session.lanes); n != 0 {
			t.Errorf("%d lanes are kept", n)
		}
		s.goodbye(p)
	})
}

// A refusal ends a publish, and says whether an attempt before it may have been stored.
func TestPublishRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		before  *clientv1.ErrorReply // of the first attempt; nil: there is one attempt only
		unknown bool
	}{
		{"at once", nil, false},
		{"after the store did not answer", refuse("UNAVAILABLE", unavailable, 0), true},
		{"after an unknown error", refuse("INTERNAL", clientv1.ErrorReason_ERROR_REASON_INTERNAL, 0), true},
		{"after an earlier one was unknown", refuse("UNAVAILABLE", earlierUnknown, 0), false},
		{"after too many", refuse("RESOURCE_EXHAUSTED", rateLimited, 0), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			perform(t, SessionOptions{}, func(t *testing.T, s *stage) {
				p := s.online()
				done := s.publish(t.Context(), Publication{Channel: "chat.a", JSON: "1", MessageID: "m1"})
				if c.before != nil {
					p.event(p.asked("m1").GetId(), c.before)
				}
				p.event(p.asked("m1").GetId(), refuse("PERMISSION_DENIED", denied, 0))
				err := (<-done).err
				if refusal, ok := errors.AsType[*Error](err); !ok || refusal.GetReason() != denied || errors.Is(err, ErrUnknown) != c.unknown {
					t.Errorf("%v; unknown: %t", err, errors.Is(err, ErrUnknown))
				}
				s.goodbye(p)
			})
		})
	}
}

// After 90 s a publish gives up, and says what is known.
func TestPublishGivesUp(t *testing.T) {
	t.Parallel()
	perform(t, SessionOptions{}, func(t *testing.T, s *stage) {
		s.answer(502, "")
		done := s.publish(t.Context(), Publication{Channel: "chat.a", JSON: "1", MessageID: "m1"})
		began := time.Now()
		var never outcome
		for never.id == "" {
			select {
			case <-s.events: // that nobody is there
			case never = <-done:
			}
		}
		equal(t, time.Since(began), publishTimeout)
		if !errors.Is(never.err, context.DeadlineExceeded) || errors.Is(never.err, ErrUnknown) {
			t.Errorf("never sent: %v", never.err)
		}
	})
	perform(t, SessionOptions{}, func(t *testing.T, s *stage) {
		p := s.online()
		done := s.publish(t.Context(), Publication{Channel: "chat.a", JSON: "1", MessageID: "m1"})
		began := time.Now()
		p.asked("m1")
		s.answer(502, "")
		p.cut()
		var lost outcome
		for lost.id == "" {
			select {
			case <-s.events:
			case lost = <-done:
			}
		}
		equal(t, time.Since(began), publishTimeout)
		if !errors.Is(lost.err, ErrUnknown) {
			t.Errorf("sent once: %v", lost.err)
		}
	})
}

// The end of the session is the end of what waits for it.
func TestPublishAfterTheEnd(t *testing.T) {
	t.Parallel()
	perform(t, SessionOptions{}, func(t *testing.T, s *stage) {
		p := s.online()
		done := s.publish(t.Context(), Publication{Channel: "chat.a", JSON: "1", MessageID: "m1"})
		p.asked("m1")
		s.goodbye(p)
		if err := (<-done).err; !errors.Is(err, ErrEnded) || !errors.Is(err, ErrUnknown) {
			t.Errorf("sent before: %v", err)
		}
		if _, err := s.session.Publish(t.Context(), Publication{Channel: "chat.a", JSON: "1"}); !errors.Is(err, ErrEnded) || errors.Is(err, ErrUnknown) {
			t.Errorf("sent after: %v", err)
		}
	})
}

// What the server would cut the connection for is not sent.
func TestPublishTooLarge(t *testing.T) {
	t.Parallel()
	perform(t, SessionOptions{}, func(t *testing.T, s *stage) {
		p := s.online()
		err := (<-s.publish(t.Context(), Publication{Channel: "chat.a", JSON: strings.Repeat("1", 64<<10)})).err
		if refusal, ok := errors.AsType[*Error](err); !ok || refusal.GetReason() != tooLarge || errors.Is(err, ErrUnknown) {
			t.Error(err)
		}
		fits := s.publish(t.Context(), Publication{Channel: "chat.a", JSON: strings.Repeat("1", 64<<10-64), MessageID: "m"})
		p.event(p.asked("m").GetId(), &clientv1.PublishedReply{Epoch: "E", Offset: 1})
		equal(t, (<-fits).err, nil)
		s.goodbye(p)
	})
}
