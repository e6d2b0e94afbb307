package roster

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
)

const lobby = channel.Name("chat.lobby")

func user(i int) channel.User { return channel.User(fmt.Sprintf("user-%05d", i)) }

func wantFault(t *testing.T, err error, reason fault.Reason) {
	t.Helper()
	if f, ok := errors.AsType[*fault.Error](err); !ok || f.Reason != reason {
		t.Fatalf("got %v, want %s", err, reason)
	}
}

func TestReportOfOneEdge(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		s := started(t, 2)
		synctest.Wait()
		s.Join(lobby, "ann")
		s.Join(lobby, "ann")
		s.Leave(lobby, "nobody", 0)
		synctest.Wait()
		s.Join(lobby, "bob") // these gather for 50 ms
		s.Leave(lobby, "ann", 0)
		s.Join("chat.attic", "ann")
		s.Leave("chat.attic", "ann", 0)
		time.Sleep(coalesce - time.Millisecond)
		synctest.Wait()
		for _, p := range s.replicas {
			p.wantLog(t, "hello complete+0 changes+1")
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		at := began.UnixMilli()
		for _, p := range s.replicas {
			p.wantLog(t, "hello complete+0 changes+1 changes+3")
			want := map[seat]attendance{{lobby, "ann"}: {1, at}, {lobby, "bob"}: {1, at}}
			if got, _ := p.state(); !maps.Equal(got, want) {
				t.Fatalf("got %v, want %v", got, want)
			}
		}
		time.Sleep(2*heartbeat + time.Second)
		s.Leave(lobby, "bob", 0)
		synctest.Wait()
		time.Sleep(heartbeat - time.Second) // would be time for one, had nothing been said
		synctest.Wait()
		stopping := time.Now()
		s.stop()
		if took := time.Since(stopping); took != 0 {
			t.Errorf("stopping took %v", took)
		}
		for _, p := range s.replicas {
			p.wantLog(t, "hello complete+0 changes+1 changes+3 heartbeat heartbeat changes+1 goodbye")
		}
	})
}

func TestLargeSnapshotAndChangesGoInParts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := started(t, 1)
		synctest.Wait()
		s.hosts[0].stop()
		for i := range 2500 {
			s.Join(lobby, user(i))
		}
		p := newPresence()
		s.replicas[0] = p
		s.hosts[0].start(p)
		time.Sleep(3 * maxBackoff)
		synctest.Wait()
		_, log := p.state()
		if want := "hello snapshot+1000 snapshot+1000 complete+500"; len(log) < len(want) || log[:len(want)] != want {
			t.Fatalf("heard %q, want %q", log, want)
		}
		members, total, err := s.Members(t.Context(), lobby, 2400)
		if err != nil || total != 2500 || len(members) != 2400 || members[2399].User != user(2399) || p.lists != 3 {
			t.Fatalf("%d members of %d in %d pages: %v", len(members), total, p.lists, err)
		}
		if members, total, err = s.Members(t.Context(), lobby, 0); err != nil || len(members) != 0 || total != 2500 {
			t.Fatalf("no members: %d of %d, %v", len(members), total, err)
		}
		for i := range 2500 {
			s.Leave(lobby, user(i), 0)
		}
		if members, total, err = s.Members(t.Context(), lobby, 10); err != nil || len(members) != 0 || total != 0 {
			t.Fatalf("after all left: %d of %d, %v", len(members), total, err)
		}
		s.stop()
	})
}

// What changes while a snapshot is on its way arrives after it, and whoever asks waits
// for both.
func TestChangesDuringASnapshot(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := started(t, 1)
		for i := range 1500 {
			s.Join(lobby, user(i))
		}
		synctest.Wait()
		s.hosts[0].stop()
		p := newPresence()
		release := p.hold()
		s.replicas[0] = p
		s.hosts[0].start(p)
		time.Sleep(maxBackoff + time.Second) // hello is held
		release()
		release = p.hold()
		synctest.Wait() // and now the first part is
		time.AfterFunc(settleTimeout/4, func() { release(); release = p.hold() })
		began := time.Now()
		if _, _, err := s.Members(t.Context(), lobby, 1); err != nil || time.Since(began) != settleTimeout {
			t.Fatalf("nothing changed, and the answer came after %v: %v", time.Since(began), err)
		}
		synctest.Wait() // for the second hold to be seen here
		s.Join(lobby, user(0))
		s.Join(lobby, user(5000))
		for i := 1; i < 1500; i++ {
			s.Leave(lobby, user(i), 0)
		}
		time.AfterFunc(settleTimeout/2, release)
		members, total, err := s.Members(t.Context(), lobby, 10)
		if err != nil || total != 2 || members[0].User != user(0) || members[0].Connections != 2 || members[1].User != user(5000) {
			_, log := p.state()
			t.Fatalf("%v of %d, %v; it heard %s", members, total, err, log)
		}
		s.stop()
	})
}

func TestMembersHoldOnesOwnJoin(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := started(t, 2)
		synctest.Wait()
		for i := range 10 { // on either replica, however recent the last change
			now := time.Now()
			s.Join(lobby, user(i))
			members, total, err := s.Members(t.Context(), lobby, 100)
			if err != nil || total != i+1 || members[i].User != user(i) || members[i].Connections != 1 || !members[i].Since.Equal(now) {
				t.Fatalf("after %d joined: %v of %d, %v", i+1, members, total, err)
			}
			if waited := time.Since(now); waited != 0 {
				t.Fatalf("an idle replica took %v", waited)
			}
		}
		if a, b := s.replicas[0].lists, s.replicas[1].lists; a != 5 || b != 5 {
			t.Fatalf("the replicas were asked %d and %d times", a, b)
		}
		s.stop()
	})
}

func TestMembersWaitForTheFirstStream(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := started(t, 1)
		s.Join(lobby, "ann")
		if _, total, err := s.Members(t.Context(), lobby, 10); err != nil || total != 1 {
			t.Fatalf("%d members: %v", total, err)
		}
		s.stop()
	})
}

func TestMembersWaitForASlowReplicaBut500ms(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := started(t, 1)
		synctest.Wait()
		release := s.replicas[0].hold()
		s.Join(lobby, "ann")
		started := time.Now()
		_, total, err := s.Members(t.Context(), lobby, 100)
		if waited := time.Since(started); err != nil || total != 0 || waited != settleTimeout {
			t.Fatalf("%d members after %v: %v", total, waited, err)
		}
		time.AfterFunc(settleTimeout/2, release)
		if _, total, err = s.Members(t.Context(), lobby, 100); err != nil || total != 1 {
			t.Fatalf("%d members: %v", total, err)
		}
		s.stop()
	})
}

func TestMembersTurnToAnotherReplica(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := started(t, 2)
		s.Join(lobby, "ann")
		synctest.Wait()
		s.replicas[0].failWith = status.Error(codes.Unavailable, "starting")
		for range 4 {
			if _, total, err := s.Members(t.Context(), lobby, 100); err != nil || total != 1 {
				t.Fatalf("%d members: %v", total, err)
			}
		}
		s.replicas[0].failWith = nil
		s.hosts[0].stop()
		synctest.Wait()
		for range 4 {
			if _, total, err := s.Members(t.Context(), lobby, 100); err != nil || total != 1 {
				t.Fatalf("%d members: %v", total, err)
			}
		}
		s.hosts[1].stop()
		synctest.Wait()
		_, _, err := s.Members(t.Context(), lobby, 100)
		wantFault(t, err, fault.PresenceUnavailable)
		if f := fault.From(err); f.RetryAfter != time.Second || f.Message != "the presence service does not answer" {
			t.Fatalf("got %v", f)
		}
		s.stop()
	})
}

func TestMembersErrors(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := started(t, 1)
		synctest.Wait()
		for _, c := range []struct{ said, want fault.Reason }{
			{fault.NamespaceUnknown, fault.NamespaceUnknown},
			{fault.PresenceDisabled, fault.PresenceDisabled},
			{fault.TokenExpired, fault.PresenceUnavailable}, // the role's token, not the user's
			{fault.Internal, fault.PresenceUnavailable},
		} {
			s.replicas[0].failWith = fault.New(c.said, "channel", "told by the service")
			_, _, err := s.Members(t.Context(), lobby, 100)
			wantFault(t, err, c.want)
		}
		s.stop()
	})
}

func TestReplicaThatDoesNotAcknowledgeIsLeft(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := started(t, 1)
		synctest.Wait()
		release := s.replicas[0].hold()
		s.Join(lobby, "ann")
		time.Sleep(ackTimeout + maxBackoff)
		release()
		time.Sleep(3 * maxBackoff)
		synctest.Wait()
		if got, log := s.replicas[0].state(); len(got) != 1 || s.replicas[0].streams < 2 {
			t.Fatalf("%v in %d streams: %s", got, s.replicas[0].streams, log)
		}
		s.stop()
	})
}

// lines counts what is written to it, a line at a time.
type lines struct{ atomic.Int64 }

func (l *lines) Write(line []byte) (int, error) {
	l.Add(1)
	return len(line), nil
}

// A replica that has said that it stops is no news, but that it does not come back is.
func TestAReplicaThatDoesNotComeBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var warnings lines
		s := startedLogging(t, 1, slog.New(slog.NewTextHandler(&warnings, &slog.HandlerOptions{Level: slog.LevelWarn})))
		synctest.Wait()
		s.replicas[0].mu.Lock()
		s.replicas[0].stops = fault.Unavailable(fault.Draining, nil, "stopping").GRPCStatus().Err()
		s.replicas[0].mu.Unlock()
		time.Sleep(heartbeat)
		synctest.Wait()
		s.hosts[0].stop()
		time.Sleep(10 * time.Second)
		if n := warnings.Load(); n != 0 {
			t.Errorf("%d warnings while it may come back", n)
		}
		time.Sleep(time.Minute)
		if n := warnings.Load(); n != 1 {
			t.Errorf("%d warnings of a replica that does not come back", n)
		}
		s.stop()
	})
}

func TestEndDoesNotWaitForAReplicaThatHangs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := started(t, 1)
		synctest.Wait()
		release := s.replicas[0].hold()
		defer release()
		s.Join(lobby, "ann")
		synctest.Wait()
		began := time.Now()
		s.stop()
		if took := time.Since(began); took != goodbyeTimeout {
			t.Fatalf("took %v", took)
		}
	})
}

// What a replica is behind by is bounded: beyond, it gets a new snapshot.
func TestBacklogIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := started(t, 1)
		synctest.Wait()
		release := s.replicas[0].hold()
		for i := range maxBacklog + 1000 {
			s.Join(lobby, user(i))
			s.Leave(lobby, user(i), 0)
			s.mu.Lock()
			n := len(s.Roster.replicas[0].dirty)
			s.mu.Unlock()
			if n > maxBacklog+1 {
				t.Fatalf("%d changes are kept", n)
			}
		}
		s.Join(lobby, "ann")
		release()
		time.Sleep(3 * maxBackoff)
		synctest.Wait()
		if got, _ := s.replicas[0].state(); len(got) != 1 || s.replicas[0].streams != 2 {
			t.Fatalf("%v in %d streams", got, s.replicas[0].streams)
		}
		s.stop()
	})
}

func TestNewNeedsAddresses(t *testing.T) {
	t.Parallel()
	if _, err := New(Options{}); err == nil {
		t.Error("without addresses")
	}
	refuse := errors.New("refused")
	if _, err := New(Options{Addresses: []string{"x"}, Dial: func(string) (*grpc.ClientConn, error) { return nil, refuse }}); !errors.Is(err, refuse) {
		t.Errorf("got %v", err)
	}
	if _, err := New(Options{Addresses: []string{"no port"}}); err == nil {
		t.Error("an address without a port")
	}
}

func TestMembersComeInOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := started(t, 1)
		for _, u := range []channel.User{"c", "a", "b"} {
			s.Join(lobby, u)
		}
		synctest.Wait()
		members, _, err := s.Members(t.Context(), lobby, 2)
		if err != nil || !slices.IsSortedFunc(members, func(a, b Member) int { return slices.Compare([]byte(a.User), []byte(b.User)) }) || len(members) != 2 {
			t.Fatalf("%v, %v", members, err)
		}
		s.stop()
	})
}
