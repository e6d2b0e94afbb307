package presence_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	presencev1 "github.com/carillon-rt/carillon/gen/carillon/presence/v1"
	"github.com/carillon-rt/carillon/services/edge/roster"
	"github.com/carillon-rt/carillon/services/internal/channel"
)

var (
	seedFlag  = flag.Uint64("seed", 0, "of the first world; 0: any")
	worldFlag = flag.Int("worlds", 2, "how many worlds to live through")
)

const (
	stepsOfWorld = 240
	stepsOfQuiet = 30 // between two quiet moments
)

// Whatever joins, leaves, crashes, is cut off, restarts or drains: after every quiet
// moment each replica, each watching edge and each backend that watches holds just the
// truth, and never in between was anybody told that somebody left who had not.
func TestEverybodyHoldsTheTruth(t *testing.T) {
	t.Parallel()
	for i := range *worldFlag {
		seed := *seedFlag + uint64(i)
		if *seedFlag == 0 {
			seed = rand.Uint64() >> 32
		}
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, seed)
				defer w.close()
				for i := range stepsOfWorld {
					if w.step(); i%stepsOfQuiet == stepsOfQuiet-1 {
						w.quiet()
					}
					if w.hasFailed() {
						return
					}
				}
				w.empty()
			})
		})
	}
}

// quiet waits until every fault is over, and compares: what lives must be known 2 s
// later, everything once what can still be under way is over.
func (w *world) quiet() {
	w.faults.Wait()
	w.note("all is well again")
	w.pass(healing)
	w.peek()
	w.pass(memory - healing + prompt)
	w.someAreHeld()
	w.note("quiet")
	for _, r := range w.replicas {
		w.compareReplica(r)
	}
	for _, s := range w.truth.on() {
		for _, name := range sorted(s.watch) {
			users, total, told := s.watch[name].state()
			w.compareList(fmt.Sprintf("%s, told %d times,", s.id, told), name, users, total)
		}
	}
	for _, o := range w.onlookers {
		o.mu.Lock()
		users, total := o.users, o.total
		w.compareList("the onlooker ("+o.lastHope+")", o.name, users, total)
		o.mu.Unlock()
	}
}

// someAreHeld has some users be held, now and then over another stream, or at a replica
// that has just started, for less time than is compared after.
func (w *world) someAreHeld() {
	for range 3 {
		if s, c := w.someone(); c != nil {
			w.disconnect(s, c, 2*memory)
		}
	}
	w.pass(w.millis(0, 500))
	switch w.random.IntN(3) {
	case 0:
		for _, s := range w.truth.on() {
			w.stumbles(s)
		}
	case 1:
		w.replicaEnds()
	}
	w.faults.Wait()
	w.pass(2 * recovery)
}

// healing is how long an edge may take to come back once nothing is in its way.
const healing = 2 * time.Second

// peek holds every replica that claims to know the truth to what is certain.
func (w *world) peek() {
	for _, r := range w.replicas {
		if r.ready() != nil {
			continue
		}
		conn := r.ask(w.t)
		for _, name := range someNames {
			w.peekAt(r, conn, name)
		}
		_ = conn.Close() // it is of no more use
	}
	for _, s := range w.truth.on() {
		for _, name := range someNames {
			w.ask(s, name)
		}
	}
}

// ask has an edge ask who is in a channel, as for a client of its own: what happened
// there is in the answer.
func (w *world) ask(s *site, name channel.Name) {
	users := map[channel.User]bool{}
	note := func(list []roster.Member) {
		for _, m := range list {
			users[m.User] = true
		}
	}
	w.truth.mu.Lock()
	well := s.well() && s.calm() && slices.ContainsFunc(w.replicas, func(r *replica) bool {
		_, age := r.lives()
		return age > memory
	}) && !slices.ContainsFunc(w.replicas, func(r *replica) bool { return !r.calm() })
	w.truth.mu.Unlock()
	var err error
	if v := s.watch[name]; v == nil {
		var list []roster.Member
		list, _, err = s.roster.Members(w.t.Context(), name, 1000)
		note(list)
	} else {
		_, err = s.roster.Look(w.t.Context(), name, func(list []roster.Member, total int, truncated bool) {
			v.take(list, total, truncated)
			note(list)
		})
	}
	w.truth.mu.Lock()
	defer w.truth.mu.Unlock()
	if !well {
		return
	}
	if err != nil {
		w.fail("%s does not know who is in %s: %v", s.id, name, err)
		return
	}
	for _, user := range someUsers {
		st := s.stays[seat{name, user}]
		if st == nil {
			continue
		}
		if here, ended := s.here(st); here && !users[user] && (st.connections > 0 || time.Until(ended) > prompt) {
			w.fail("%s asks for %s and does not see its own %s", s.id, name, user)
		}
		if st.connections == 0 && st.until.Equal(st.left) && users[user] && w.truth.surelyGone(seat{name, user}, 0) && w.truth.onlyOn(s, seat{name, user}) {
			w.fail("%s asks for %s and sees %s, who left here", s.id, name, user)
		}
	}
}

func (w *world) peekAt(r *replica, conn *grpc.ClientConn, name channel.Name) {
	w.truth.mu.Lock()
	defer w.truth.mu.Unlock()
	list, _, err := members(w.t.Context(), conn, string(name))
	if err != nil {
		if r.ready() == nil {
			w.fail("%s, which is ready, does not list %s: %v", r.name, name, err)
		}
		return
	}
	for _, user := range someUsers {
		listed := slices.ContainsFunc(list, func(m *presencev1.Member) bool { return m.GetUserId() == string(user) })
		if s := w.truth.surely(seat{name, user}, prompt, w.replicas); s != nil && !listed {
			w.fail("%s does not list %s in %s, who is on %s", r.name, user, name, s.id)
		}
		if listed && w.truth.surelyGone(seat{name, user}, w.truth.slack(w.replicas)) {
			w.fail("%s lists %s in %s, who is long gone", r.name, user, name)
		}
	}
}

// compareReplica wants a replica to say just what is true.
func (w *world) compareReplica(r *replica) {
	if err := r.ready(); err != nil {
		w.fail("%s is not ready: %v", r.name, err)
		return
	}
	conn := r.ask(w.t)
	defer conn.Close()
	w.truth.mu.Lock()
	defer w.truth.mu.Unlock()
	client := presencev1.NewPresenceServiceClient(conn)
	counts, err := client.CountMembers(w.t.Context(), &presencev1.CountMembersRequest{Channels: texts(someNames)})
	if err != nil {
		w.fail("%s does not count: %v", r.name, err)
		return
	}
	for i, name := range someNames {
		list, total, err := members(w.t.Context(), conn, string(name))
		if err != nil {
			w.fail("%s does not list %s: %v", r.name, name, err)
			continue
		}
		users, connections := map[channel.User]bool{}, 0
		truth := w.truth.members(name, r)
		for _, m := range list {
			users[channel.User(m.GetUserId())] = true
			connections += int(m.GetConnections())
			want := truth[channel.User(m.GetUserId())]
			since := m.GetSince().AsTime().UnixMilli() - want.since.UnixMilli()
			if !want.since.IsZero() && (int(m.GetConnections()) != want.connections || want.certain && since != 0 || !slices.Contains(want.infos, m.GetInfo())) {
				w.fail("%s has %v in %s, want %+v", r.name, m, name, want)
			}
		}
		w.compareList(r.name, name, users, total, r)
		if c := counts.GetCounts()[i]; c.GetChannel() != string(name) || int(c.GetMembers()) != total || int(c.GetConnections()) != connections {
			w.fail("%s counts %v and lists %d members with %d connections", r.name, c, total, connections)
		}
	}
	for _, user := range someUsers {
		got, err := client.GetUser(w.t.Context(), &presencev1.GetUserRequest{UserId: string(user)})
		if err != nil {
			w.fail("%s does not tell of %s: %v", r.name, user, err)
			continue
		}
		w.compareUser(r, user, got)
	}
}

// compareList wants a list to hold all who are there, and nobody else but those of whom
// this replica, or without one any of them, may not know that they are not. The caller
// holds truth.mu if it names a replica.
func (w *world) compareList(who string, name channel.Name, users map[channel.User]bool, total int, of ...*replica) {
	if len(of) == 0 {
		w.truth.mu.Lock()
		defer w.truth.mu.Unlock()
		of = w.replicas
	}
	truth := w.truth.members(name, of...)
	for user, m := range truth {
		if m.must && !users[user] {
			w.fail("%s does not have %s in %s", who, user, name)
		}
	}
	for user := range users {
		if _, ok := truth[user]; !ok {
			w.fail("%s has a ghost of %s in %s", who, user, name)
		}
	}
	if total != len(users) {
		w.fail("%s has %d members of %s, total %d", who, len(users), name, total)
	}
}

func (w *world) compareUser(r *replica, user channel.User, got *presencev1.GetUserResponse) {
	var has, wants []string
	for _, c := range got.GetConnections() {
		has = append(has, fmt.Sprint(c.GetConnectionId(), " on ", c.GetEdgeId(), " since ", c.GetSince().AsTime().UnixMilli(), c.GetInfo()))
	}
	for _, s := range w.truth.sites {
		for _, c := range s.connections {
			if c.user == user && s.gone.IsZero() {
				wants = append(wants, fmt.Sprint(c.id, " on ", s.id, " since ", c.since.UnixMilli(), c.info))
			}
		}
	}
	order := slices.IsSortedFunc(got.GetConnections(), func(a, b *presencev1.UserConnection) int {
		return a.GetSince().AsTime().Compare(b.GetSince().AsTime())
	})
	slices.Sort(has)
	slices.Sort(wants)
	if !slices.Equal(has, wants) || !order || int(got.GetTotal()) != len(wants) || got.GetOnline() != (len(wants) > 0) {
		w.fail("%s says of %s %v, want %q", r.name, user, got, wants)
	}
	seen, certain := w.truth.lastSeen(user)
	switch last := got.GetLastSeen(); {
	case len(wants) > 0 || !certain:
	case seen.IsZero() != (last == nil) || last != nil && !last.AsTime().Equal(seen):
		w.fail("%s saw %s last %v, want %v", r.name, user, last.AsTime(), seen)
	}
}

func texts(names []channel.Name) []string {
	all := make([]string, len(names))
	for i, name := range names {
		all[i] = string(name)
	}
	return all
}

// empty has everybody leave, and wants nobody to be left.
func (w *world) empty() {
	for _, s := range w.truth.on() {
		for _, id := range sorted(s.connections) {
			w.disconnect(s, s.connections[id], w.hold())
		}
	}
	w.quiet()
	for _, r := range w.replicas {
		conn := r.ask(w.t)
		for _, name := range someNames {
			if list, total, err := members(w.t.Context(), conn, string(name)); err != nil || len(list) > 0 || total > 0 {
				w.fail("%s still has %v in %s: %v", r.name, list, name, err)
			}
		}
		_ = conn.Close() // it is of no more use
	}
}
