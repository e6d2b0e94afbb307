package e2e_test

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	carillon "github.com/carillon-rt/carillon/clients/go"
	"github.com/carillon-rt/carillon/services/chaos/proxy"
)

// stoppedFlag is longer with make truth, as the promise has it.
var stoppedFlag = flag.Duration("presence.stopped", 8*time.Second, "for how long an edge is stopped")

// Bounds that are promised, and what a loaded machine may add.
const (
	silentBound = 6 * time.Second
	healedBound = 2 * time.Second
	slack       = 3 * time.Second
	cutFor      = 10 * time.Second
	lossGrace   = 12 * time.Second
	pingEvery   = time.Second
	pongWithin  = 3 * time.Second
	// vanishBound is 41 s with the defaults: an edge looks twice a second, and gives a
	// client 5 s to answer a close.
	vanishBound = pingEvery + pongWithin + time.Second + 5*time.Second
)

// troupe is a system of which parts can be taken away: two replicas of presence, and
// edges with a cable to each.
type troupe struct {
	*system
	processes []*process // of the edges
	cables    [][]*proxy.Proxy
}

// startTroupe starts one. The first edge pings often.
func startTroupe(t *testing.T, edges int) *troupe {
	t.Helper()
	address := reserve(t)
	startNATS(t, t.TempDir(), address)
	c := newCluster(t, address)
	replicas := []*process{c.start(t, "presence"), c.start(t, "presence")}
	all := slices.Clone(replicas)
	tr := &troupe{}
	for i := range edges {
		var cables []*proxy.Proxy
		var addresses []string
		for _, replica := range replicas {
			cable := newProxy(t, replica.address(t, "presence"))
			cables, addresses = append(cables, cable), append(addresses, cable.Address())
		}
		arguments := []string{presences(addresses...), "--presence.grace=" + lossGrace.String()}
		if i == 0 {
			arguments = append(arguments, "--edge.ping-interval="+pingEvery.String(), "--edge.pong-timeout="+pongWithin.String())
		}
		edge := c.start(t, "edge", arguments...)
		tr.processes, tr.cables, all = append(tr.processes, edge), append(tr.cables, cables), append(all, edge)
	}
	for _, p := range all {
		p.ready(t)
	}
	tr.system = c.system(t, all...)
	return tr
}

func newProxy(t testing.TB, target string) *proxy.Proxy {
	t.Helper()
	p, err := proxy.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	p.Target(target)
	return p
}

// audience is everybody who is told of a channel in which somebody is on an edge.
type audience struct {
	troupe  *troupe
	channel string
	witness *onlooker // on the first edge
	backend *onlooker
	others  []string // users who stay
	all     []string // with the victim
}

const victim = "victim"

// gather has a victim join a channel on an edge, others on the first, and waits until
// everybody knows.
func (tr *troupe) gather(t *testing.T, channel, victimsEdge string) (client, *audience) {
	t.Helper()
	tr.connect(t, tr.edges[0], "stayer", channel)
	v := tr.connect(t, victimsEdge, victim, channel)
	a := &audience{
		troupe: tr, channel: channel,
		witness: tr.witness(t, tr.edges[0], "witness", channel),
		backend: tr.backend(t, channel, func() []string { return tr.presences }),
		others:  []string{"stayer", "witness"},
		all:     []string{"stayer", victim, "witness"},
	}
	a.knows(t, patience, a.all)
	return v, a
}

// knows waits until everybody knows of just these users.
func (a *audience) knows(t *testing.T, bound time.Duration, users []string) {
	t.Helper()
	began := time.Now()
	left := func() time.Duration { return max(bound-time.Since(began), time.Millisecond) }
	a.witness.await(t, left(), users...)
	a.backend.await(t, left(), users...)
	for _, replica := range a.troupe.presences {
		a.troupe.awaitListed(t, left(), replica, a.channel, users...)
	}
}

// note logs how long it took until the witness was told of the victim.
func (a *audience) note(t *testing.T, since time.Time, here bool) {
	t.Helper()
	t.Logf("%s: the witness heard %v later, here: %v", a.channel, a.witness.lastTold(victim, here).Sub(since).Round(time.Millisecond), here)
}

func (a *audience) wantSteady(t *testing.T, users ...string) {
	t.Helper()
	a.witness.wantSteady(t, users...)
	a.backend.wantSteady(t, users...)
}

// act is one thing that happens in a story, so long after its begin, or that must be
// known slack later.
type act struct {
	at time.Duration
	do func()
}

// play lets all stories happen at once.
func play(t *testing.T, stories ...[]act) {
	t.Helper()
	acts := slices.Concat(stories...)
	slices.SortStableFunc(acts, func(a, b act) int { return cmp.Compare(a.at, b.at) })
	began := time.Now()
	for _, a := range acts {
		pause(t, began, a.at)
		a.do()
	}
}

// pause waits until something has lasted for long enough.
func pause(t testing.TB, began time.Time, lasts time.Duration) {
	t.Helper()
	select {
	case <-time.After(time.Until(began.Add(lasts))):
	case <-t.Context().Done():
	}
}

// What becomes of an edge, or of a client, is known to everybody in the time that is
// promised, and nobody else is said to have left.
func TestPresenceTellsTheTruthOfEdges(t *testing.T) {
	t.Parallel()
	tr := startTroupe(t, 4)
	presenceAsked(t, tr)
	play(
		t,
		edgeKilled(t, tr), edgeStopped(t, tr), edgeCutOff(t, tr),
		clientVanished(t, tr), clientReloads(t, tr), clientLost(t, tr), clientCloses(t, tr),
	)
}

func edgeKilled(t *testing.T, tr *troupe) []act {
	_, a := tr.gather(t, "chat.killed", tr.edges[1])
	who := tr.who(t, a.channel, tr.presences[0])
	who.line(t, &who.stdout, victim)
	var began time.Time
	return []act{
		{0, func() {
			began = time.Now()
			tr.processes[1].kill(t)
		}},
		{silentBound, func() {
			a.knows(t, slack, a.others)
			a.note(t, began, false)
			a.wantSteady(t, a.others...)
			who.line(t, &who.stdout, "- "+victim)
			if lines := who.stdout.text(); strings.Contains(lines, "- stayer") || strings.Contains(lines, "- witness") {
				t.Errorf("carillon who: %s", lines)
			}
		}},
	}
}

func edgeStopped(t *testing.T, tr *troupe) []act {
	_, a := tr.gather(t, "chat.stopped", tr.edges[2])
	insider := tr.witness(t, tr.edges[2], "insider", a.channel)
	all := []string{"insider", "stayer", victim, "witness"}
	a.knows(t, patience, all)
	var began time.Time
	return []act{
		{0, func() {
			began = time.Now()
			tr.processes[2].signal(t, syscall.SIGSTOP)
		}},
		{silentBound, func() {
			a.knows(t, slack, a.others)
			a.note(t, began, false)
		}},
		{*stoppedFlag, func() {
			began = time.Now()
			tr.processes[2].signal(t, syscall.SIGCONT)
		}},
		{*stoppedFlag + healedBound, func() {
			a.knows(t, slack, all)
			a.note(t, began, true)
			insider.await(t, slack, all...)
			a.wantSteady(t, a.others...)
			insider.wantSteady(t, a.others...)
		}},
	}
}

func edgeCutOff(t *testing.T, tr *troupe) []act {
	_, a := tr.gather(t, "chat.cut-off", tr.edges[3])
	insider := tr.witness(t, tr.edges[3], "insider", a.channel)
	all := []string{"insider", "stayer", victim, "witness"}
	a.knows(t, patience, all)
	var began time.Time
	return []act{
		{0, func() {
			began = time.Now()
			tr.cables[3][0].Hold()
			tr.cables[3][1].Cut()
		}},
		{silentBound, func() {
			a.knows(t, slack, a.others)
			a.note(t, began, false)
		}},
		{cutFor, func() {
			began = time.Now()
			tr.cables[3][0].Pass()
			tr.cables[3][1].Pass()
		}},
		{cutFor + healedBound, func() {
			a.knows(t, slack, all)
			a.note(t, began, true)
			insider.await(t, slack, all...)
			a.wantSteady(t, a.others...)
			insider.wantSteady(t, all...) // it has heard nothing in between
		}},
	}
}

// clientVanished has a client's network go away: not even a reset comes. Nobody is held
// for that, or it would take longer by the grace.
func clientVanished(t *testing.T, tr *troupe) []act {
	cable := newProxy(t, tr.edges[0])
	_, a := tr.gather(t, "chat.vanished", cable.Address())
	var began time.Time
	return []act{
		{0, func() {
			began = time.Now()
			cable.Hold()
		}},
		{vanishBound, func() {
			a.knows(t, slack, a.others)
			a.note(t, began, false)
			a.wantSteady(t, a.others...)
		}},
	}
}

// clientReloads breaks the connection and is back before the grace is over.
func clientReloads(t *testing.T, tr *troupe) []act {
	cable := newProxy(t, tr.edges[0])
	_, a := tr.gather(t, "chat.reload", cable.Address())
	return []act{
		{0, cable.Cut},
		{lossGrace / 4, func() { tr.connect(t, tr.edges[0], victim, a.channel) }},
		{lossGrace + slack/2, func() {
			a.knows(t, slack, a.all)
			a.wantSteady(t, a.all...)
		}},
	}
}

// clientLost breaks the connection and does not come back: it is held, and then gone.
func clientLost(t *testing.T, tr *troupe) []act {
	cable := newProxy(t, tr.edges[0])
	_, a := tr.gather(t, "chat.lost", cable.Address())
	return []act{
		{0, cable.Cut},
		{lossGrace - slack, func() { a.wantSteady(t, a.all...) }},
		{lossGrace, func() {
			a.knows(t, slack, a.others)
			a.wantSteady(t, a.others...)
		}},
	}
}

func clientCloses(t *testing.T, tr *troupe) []act {
	v, a := tr.gather(t, "chat.closes", tr.edges[0])
	return []act{
		{0, func() {
			if err := v.Close(); err != nil {
				t.Error(err)
			}
		}},
		{pingEvery, func() {
			a.knows(t, slack, a.others)
			a.wantSteady(t, a.others...)
		}},
	}
}

// presenceAsked asks all that a backend may ask, with a client that knows the contract
// only from reflection.
func presenceAsked(t *testing.T, tr *troupe) {
	const channel, service = "chat.asked", "carillon.presence.v1.PresenceService/"
	one, two := tr.connect(t, tr.edges[0], "twice", channel), tr.connect(t, tr.edges[0], "twice", channel)
	tr.connect(t, tr.edges[0], "once", channel)
	for _, replica := range tr.presences {
		eventually(t, "the count of "+channel, func() error {
			var counted struct {
				Counts []struct {
					Channel              string
					Members, Connections int
				}
			}
			decode(t, tr.grpcurl(t, replica, service+"CountMembers", map[string]any{"channels": []string{channel, "chat.nobody"}}), &counted)
			got := fmt.Sprint(counted.Counts)
			return equal([]string{got}, []string{"[{" + channel + " 2 3} {chat.nobody 0 0}]"})
		})
		var user struct {
			UserID      string
			Online      bool
			Total       int
			Connections []struct{ ConnectionID, EdgeID string }
		}
		decode(t, tr.grpcurl(t, replica, service+"GetUser", map[string]any{"user_id": "twice"}), &user)
		want := []string{one.Connected().GetConnectionId(), two.Connected().GetConnectionId()}
		if len(user.Connections) != 2 || user.Connections[0].ConnectionID != want[0] || user.Connections[1].ConnectionID != want[1] || user.Total != 2 || !user.Online {
			t.Errorf("GetUser: %+v, want the connections %v", user, want)
		}
		watched, _, _ := execute(t, nil, program(t, grpcurlProgram), "-plaintext", "-max-time", "1",
			"-H", "authorization: Bearer "+tr.token(t, "service", tr.caller), "-d", encode(t, map[string]any{"channel": channel}), replica, service+"WatchChannel")
		if !strings.Contains(watched, `"complete": true`) || strings.Count(watched, `"userId"`) != 2 || !strings.Contains(watched, `"resumeToken"`) {
			t.Errorf("WatchChannel: %s", watched)
		}
	}
	if err := one.Close(); err != nil {
		t.Error(err)
	}
	if err := two.Close(); err != nil {
		t.Error(err)
	}
	eventually(t, "the end of twice", func() error {
		var user struct {
			Online   bool
			LastSeen time.Time
		}
		decode(t, tr.grpcurl(t, tr.presences[1], service+"GetUser", map[string]any{"user_id": "twice"}), &user)
		if user.Online || time.Since(user.LastSeen) > patience {
			return fmt.Errorf("%+v", user)
		}
		return nil
	})
	if who := output(t, program(t, carillonProgram), "who", "--user", "once", "--server", tr.presences[0], "--token", tr.token(t, "service", tr.caller)); !strings.Contains(who, "online") {
		t.Errorf("carillon who --user: %s", who)
	}
}

// sessionOf keeps a user in a channel over any number of connections.
func (s *system) sessionOf(t *testing.T, user, channel string, edges ...string) {
	t.Helper()
	var urls []string
	for _, edge := range edges {
		urls = append(urls, "ws://"+edge+"/v1/ws")
	}
	token := s.token(t, "user", user)
	session, err := carillon.NewSession(carillon.SessionOptions{
		URLs: urls, Channels: []string{channel}, Token: func(context.Context) (string, error) { return token, nil },
	}, func(carillon.Event) {})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = session.Run(ctx) // ctx ends it
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
}
