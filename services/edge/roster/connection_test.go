package roster

import (
	"fmt"
	"maps"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-rt/carillon/services/internal/channel"
)

// wantConnections wants every replica to know these connections, and when these users were
// last heard.
func (s *system) wantConnections(t *testing.T, connections map[string]Connection, seen map[channel.User]time.Time) {
	t.Helper()
	synctest.Wait()
	for i, p := range s.replicas {
		p.mu.Lock()
		gotConnections, gotSeen := maps.Clone(p.said.connections), maps.Clone(p.said.seen)
		p.mu.Unlock()
		if !maps.EqualFunc(gotConnections, connections, sameConnection) {
			t.Fatalf("replica %d knows %v, want %v", i, gotConnections, connections)
		}
		if !maps.EqualFunc(gotSeen, seen, time.Time.Equal) {
			t.Fatalf("replica %d has seen %v, want %v", i, gotSeen, seen)
		}
	}
}

func sameConnection(a, b Connection) bool {
	return a.ID == b.ID && a.User == b.User && a.Info == b.Info && a.Since.Equal(b.Since)
}

// replace starts a new replica in place of one.
func (s *system) replace(i int) *presence {
	s.hosts[i].stop()
	s.replicas[i] = newPresence()
	s.hosts[i].start(s.replicas[i])
	time.Sleep(2 * maxBackoff)
	synctest.Wait()
	return s.replicas[i]
}

func TestConnectionsAreTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := started(t, 2)
		now := time.Now()
		ann := Connection{"a1", "ann", now, `{"name":"Ann"}`}
		annToo := Connection{"a2", "ann", now.Add(time.Second), ""}
		bob := Connection{"b", "bob", now, "7"}
		for _, c := range []Connection{ann, annToo, bob} {
			s.Connect(c)
		}
		time.Sleep(coalesce)
		s.wantConnections(t, map[string]Connection{"a1": ann, "a2": annToo, "b": bob}, nil)

		bob.Info = "8" // as after a refresh
		s.Connect(bob)
		s.Disconnect("a1", now.Add(time.Second))
		s.Disconnect("unknown", now)
		time.Sleep(coalesce)
		seen := map[channel.User]time.Time{"ann": now.Add(time.Second)} // the replica keeps it, for when she is not online
		s.wantConnections(t, map[string]Connection{"a2": annToo, "b": bob}, seen)

		s.Disconnect("b", now.Add(2*time.Second))
		s.Disconnect("b", now.Add(3*time.Second))
		s.Connect(Connection{"c", "carol", now, ""}) // both within 50 ms
		s.Disconnect("c", now.Add(4*time.Second))
		s.Connect(Connection{"d", "dave", now, ""})
		seen["dave"] = time.Now()
		s.Disconnect("d", time.Time{})
		time.Sleep(coalesce)
		seen["bob"], seen["carol"] = now.Add(2*time.Second), now.Add(4*time.Second)
		s.wantConnections(t, map[string]Connection{"a2": annToo}, seen)

		s.replace(0)
		s.replace(1)
		delete(seen, "ann") // who is here
		s.wantConnections(t, map[string]Connection{"a2": annToo}, seen)
		s.stop()
	})
}

func TestLastSeenEndsWithAConnection(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := started(t, 1)
		now := time.Now()
		for i, user := range []channel.User{"ann", "bob"} {
			s.Connect(Connection{string(user), user, now, ""})
			s.Disconnect(string(user), now.Add(time.Duration(i)*time.Hour))
		}
		bob := Connection{"again", "bob", now, ""}
		s.Connect(bob)
		s.replace(0)
		s.wantConnections(t, map[string]Connection{"again": bob}, map[channel.User]time.Time{"ann": now})
		s.Disconnect("again", now.Add(time.Hour))
		s.replace(0)
		s.wantConnections(t, nil, map[channel.User]time.Time{"ann": now, "bob": now.Add(time.Hour)})
		s.stop()
	})
}

func TestLastSeenEndsAfterADay(t *testing.T) {
	t.Parallel()
	seen, now := newSightings(), time.Unix(0, 0)
	seen.add("ann", now)
	seen.add("bob", now.Add(time.Hour))
	if all := seen.all(now.Add(sightingAge - 1)); len(all) != 2 || !all[1].GetTime().AsTime().Equal(now.Add(time.Hour)) {
		t.Fatalf("got %v", all)
	}
	if all := seen.all(now.Add(sightingAge)); len(all) != 1 || all[0].GetUserId() != "bob" {
		t.Fatalf("got %v", all)
	}
}

func TestLastSeenIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := started(t, 1)
		now := time.Now()
		for i := range maxSightings + 500 {
			s.Connect(Connection{fmt.Sprint(i), user(i), now, ""})
			s.Disconnect(fmt.Sprint(i), now)
		}
		p := s.replace(0)
		if _, first := p.said.seen[user(499)]; len(p.said.seen) != maxSightings || first || len(s.seen.byUser) != maxSightings {
			t.Fatalf("%d users have been seen, the first: %v", len(p.said.seen), first)
		}
		s.stop()
	})
}

// Every list of a request has at most a thousand entries, and info is there before those
// whom it is of are members.
func TestManyConnectionsGoInParts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := started(t, 1)
		synctest.Wait()
		a := s.audience(t, lobby)
		a.look()
		release := s.replicas[0].hold()
		s.Join(lobby, "first") // on its way alone
		synctest.Wait()
		for i := range 2500 {
			s.Connect(Connection{fmt.Sprint(i), user(i), time.Now(), "1"})
		}
		for i := range 1500 {
			s.Join(lobby, user(i))
		}
		release()
		time.Sleep(time.Second)
		synctest.Wait()
		if n := len(s.replicas[0].said.connections); n != 2500 {
			t.Fatalf("%d connections", n)
		}
		for _, u := range a.updates {
			for _, m := range u.Joined {
				if m.Info == "" && m.User != "first" {
					t.Fatalf("%s joins, and nothing is said of it", m.User)
				}
			}
		}
		p := s.replace(0)
		if n := len(p.said.connections); n != 2500 || len(p.said.attendances) != 1501 {
			t.Fatalf("%d connections, %d attendances", n, len(p.said.attendances))
		}
		for i := range 2500 {
			s.Disconnect(fmt.Sprint(i), time.Now())
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if n := len(p.said.connections); n != 0 || len(s.connections)+len(s.online) != 0 {
			t.Fatalf("%d connections are left", n)
		}
		s.stop()
	})
}

// Connections count for the backlog of a replica.
func TestBacklogOfConnectionsIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := started(t, 1)
		synctest.Wait()
		release := s.replicas[0].hold()
		for i := range maxBacklog + 1000 {
			s.Connect(Connection{fmt.Sprint(i), "ann", time.Now(), ""})
			s.Disconnect(fmt.Sprint(i), time.Now())
			s.mu.Lock()
			n := len(s.Roster.replicas[0].dirtyConnections)
			s.mu.Unlock()
			if n > maxBacklog+1 {
				t.Fatalf("%d changes are kept", n)
			}
		}
		release()
		time.Sleep(3 * maxBackoff)
		synctest.Wait()
		if n := s.replicas[0].streams; n != 2 {
			t.Fatalf("%d streams", n)
		}
		s.stop()
	})
}
