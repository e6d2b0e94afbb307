package e2e_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	carillon "github.com/carillon-rt/carillon/clients/go"
	clientv1 "github.com/carillon-rt/carillon/gen/carillon/client/v1"
	presencev1 "github.com/carillon-rt/carillon/gen/carillon/presence/v1"
	"github.com/carillon-rt/carillon/services/internal/rpc"
)

const (
	crowdUsers = 10_000 // half of them on each edge
	// crowdDialers is how many users connect at once.
	crowdDialers = 200
	// crowdObservers is how many of those who come first write down all that they are told.
	crowdObservers = 50
	// crowdFrames bounds the pushes that joining in ten seconds costs a member of the one
	// channel. An edge with n of them pushes once in max(100 ms, n / 5,000 s): ten in the
	// first second and then 10 × ln(10) while n grows to 5,000, and half as many again for
	// what is not so even. If joining takes longer there are more, in proportion.
	crowdFrames = 50
	// crowdFence is less than what an edge waits for a replica before it answers without
	// what it told it a moment ago.
	crowdFence = 400 * time.Millisecond
	// crowdTruth is how long after it is ready a replica may take to count right.
	crowdTruth = 2 * time.Second
)

const crowdConfig = `
nats: {url: "nats://%[1]s"}
log: {format: json}
edge: # everybody has the same address here
  listen: "127.0.0.1:0"
  rate: {messages: 10000, per: 1s}
  max_connections_per_address: 0
  max_new_connections_per_address: 0
presence: {listen: "127.0.0.1:0"}
ops: {listen: "127.0.0.1:0", pprof: true}
auth:
  issuers:
    - {name: main, for: clients, algorithms: [HS256], secret: {env: E2E_CLIENTS_SECRET}}
    - {name: services, for: callers, algorithms: [HS256], secret: {env: E2E_CALLERS_SECRET}}
  roles_secret: {env: E2E_ROLES_SECRET}
callers: [{name: backend, presence: ["{rest...}"]}]
namespaces:
  - {name: room, ephemeral: true, presence: true, rules: [{channel: "room.{id}", subscribe: "true"}]}
  - {name: plain, ephemeral: true, rules: [{channel: "plain.{id}", subscribe: "true"}]}
`

// scene is who is in which channel.
type scene struct {
	name     string
	channels int
	per      int           // channels of a user
	joining  time.Duration // of all; half of them leave in half of it
}

var scenes = []scene{
	{"10,000 users in one channel", 1, 1, 10 * time.Second},
	{"10,000 channels of 10 users", 10_000, 10, time.Minute},
}

// channel is the number of the k-th channel of a user. Two users share no more than one
// of many.
func (s scene) channel(user, k int) int { return (user + 1009*k) % s.channels }

// part is how much presence there is, each more than the one before, so that what one
// part costs is the difference.
type part struct {
	name      string
	namespace string
	watched   bool // with presence: true
	asked     bool // each user asks once who is in its channels
}

var parts = []part{
	{"none", "plain", false, false},
	{"kept", "room", false, false},
	{"watched", "room", true, false},
	{"watched, asked for once", "room", true, true},
}

// BenchmarkPresence has 10,000 users join, then half of them leave, on two edges and two
// replicas of presence that share a core, with the users on the other. It fails where a
// replica or a user is told anything but the truth in the end, where joining costs a
// member more frames than it may, and where a replica that has been killed does not know
// again who is there.
//
//	make presence
func BenchmarkPresence(b *testing.B) {
	pinSelf(b, generatorCore)
	var tokens []string
	for i := range crowdUsers {
		tokens = append(tokens, signed(b, clientSecret, crowdUser(i)))
	}
	for _, scene := range scenes {
		rows := []string{crowdHead}
		for _, part := range parts {
			b.Run(scene.name+"/"+part.name, func(b *testing.B) {
				rows = append(rows, newCrowd(b, scene, part, tokens).measure())
			})
		}
		if len(rows) == 1 { // not wanted, or failed
			continue
		}
		// Not by b.Log, of which a benchmark shows ten lines.
		_, _ = fmt.Fprintf(os.Stdout, "%s; a join is a user in a channel\n%s\n", scene.name, strings.Join(rows, "\n"))
	}
}

const crowdHead = `| presence | edge CPU µs/join | presence CPU µs/join, a replica | edge heap B/member | presence heap B/member | edge RSS MiB | presence RSS MiB | joins late p99 ms | list ms p50 | p99 | join to push ms p50 | p99 | leaves late p99 ms | leave to push ms p50 | p99 | pushes a member, joining | most | bytes a member | snapshot after a start ms | ready ms | right ms |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|`

func crowdUser(i int) string { return fmt.Sprintf("u%05d", i) }

// told is what an observer was told, and when.
type told struct {
	at   time.Time
	push *clientv1.PresenceChangedPush
}

// person is a user of the crowd.
type person struct {
	client       *carillon.Client
	joined, left time.Time
	lists        []time.Duration // that it took to have each

	mu     sync.Mutex // the others are of reading while it goes on
	pushes int
	bytes  int
	leaves int // told of
	told   []told
	totals map[string]int // by channel
}

// crowd is a scene in which something is measured.
type crowd struct {
	*testing.B
	scene
	part

	tokens    []string
	addresses []string // of presence
	edges     []*process
	presences []*process
	cluster   *cluster
	at        []string // the edges' addresses
	counts    []presencev1.PresenceServiceClient
	ctx       context.Context // shows the caller's token
	people    []*person
	reading   sync.WaitGroup
	asking    sync.WaitGroup
	// Lists that came without who asked, and askers who got none.
	unseen, unanswered atomic.Int64
	names              []string // of the channels
}

func newCrowd(b *testing.B, s scene, p part, tokens []string) *crowd {
	b.Helper()
	dir, nats := b.TempDir(), reserve(b)
	c := &crowd{B: b, scene: s, part: p, tokens: tokens, people: make([]*person, crowdUsers)}
	for n := range s.channels {
		c.names = append(c.names, fmt.Sprintf("%s.%d", p.namespace, n))
	}
	c.cluster = &cluster{file: filepath.Join(dir, "carillon.yaml"), environ: []string{
		"E2E_CLIENTS_SECRET=" + clientSecret, "E2E_CALLERS_SECRET=" + callerSecret, "E2E_ROLES_SECRET=" + strings.Repeat("r", 32),
	}}
	write(b, c.cluster.file, fmt.Sprintf(crowdConfig, nats))
	startNATS(b, filepath.Join(dir, "nats"), nats)
	system := &system{caller: "backend", signs: []string{"--config", c.cluster.file}, env: c.cluster.environ}
	c.ctx = metadata.AppendToOutgoingContext(b.Context(), "authorization", "Bearer "+system.token(b, "service", "backend"))
	for i := range 2 {
		c.addresses = append(c.addresses, reserve(b))
		c.presences = append(c.presences, c.startPresence(i))
		conn, err := rpc.Dial([]string{c.addresses[i]}, nil)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = conn.Close() })
		c.counts = append(c.counts, presencev1.NewPresenceServiceClient(conn))
	}
	for range 2 {
		c.edges = append(c.edges, c.start("edge", presences(c.addresses...)))
	}
	for _, p := range slices.Concat(c.presences, c.edges) {
		p.ready(b)
	}
	for _, p := range c.edges {
		c.at = append(c.at, p.address(b, "edge"))
	}
	return c
}

func (c *crowd) start(role string, arguments ...string) *process {
	c.Helper()
	return start(c, command{
		name: "carillon " + role, program: program(c, carillonProgram), environ: c.cluster.environ,
		arguments: append([]string{role, "--config=" + c.cluster.file}, arguments...), launch: pinned(serverCore, unix.SCHED_NORMAL),
	})
}

func (c *crowd) startPresence(i int) *process {
	return c.start("presence", "--presence.listen="+c.addresses[i])
}

// weight is what the processes of a role have used, a process.
type weight struct {
	cpu            time.Duration
	heap, resident float64 // bytes
}

func (c *crowd) weigh(processes []*process) weight {
	c.Helper()
	var w weight
	n := len(processes)
	for _, p := range processes {
		w.cpu += cpuOf(c, p) / time.Duration(n) // before its collection
		w.resident += float64(resident(c, p)) / float64(n)
		_, text := p.get(c, "/debug/pprof/heap?gc=1&debug=1")
		found := heapAlloc.FindStringSubmatch(text)
		if found == nil {
			c.Fatalf("%s: no HeapAlloc", p.name)
		}
		bytes, err := strconv.Atoi(found[1])
		if err != nil {
			c.Fatal(err)
		}
		w.heap += float64(bytes) / float64(n)
	}
	return w
}

var heapAlloc = regexp.MustCompile(`(?m)^# HeapAlloc = (\d+)$`)

func (c *crowd) measure() string {
	c.weigh(slices.Concat(c.edges, c.presences)) // the first has what later ones have not
	edge, presence := c.weigh(c.edges), c.weigh(c.presences)
	began := time.Now()
	joinsLate := c.atTheirTimes(0, crowdUsers, c.joining, c.join)
	c.asking.Wait()
	c.settled(crowdUsers)
	took := time.Since(began)
	edgeThen, presenceThen := c.weigh(c.edges), c.weigh(c.presences)
	joins := float64(crowdUsers * c.per)
	each := float64(len(c.edges))
	pushes, most, bytes := c.pushed()
	if bound := crowdFrames * max(1, took.Seconds()/10); c.channels == 1 && float64(most) > bound {
		c.Errorf("a member was told %d times, more than %.0f, of those who joined in %v", most, bound, took)
	}
	if n := c.unseen.Load(); n > 0 {
		c.Errorf("%d lists came in time, without who asked", n)
	}
	if n := c.unanswered.Load(); n > 0 {
		c.Errorf("%d users were not told who is in their channels", n)
	}
	snapshot, ready, right := c.restartPresence()
	leavesLate := c.atTheirTimes(crowdUsers/2, crowdUsers, c.joining/2, c.leave)
	c.settled(crowdUsers / 2)
	for i, p := range c.people[:crowdUsers/2] { // the others have left
		if p.client.Err() != nil {
			c.Errorf("%s has lost its connection: %v", crowdUser(i), p.client.Err())
		}
		_ = p.client.Close() // nothing is awaited any more
	}
	c.reading.Wait()
	joined, left := c.latencies()
	var lists []time.Duration
	for _, p := range c.people {
		lists = append(lists, p.lists...)
	}
	slices.Sort(lists)
	ms := func(d time.Duration) string { return strconv.FormatFloat(d.Seconds()*1000, 'f', 0, 64) }
	micro := func(d time.Duration, n float64) float64 { return float64(d.Microseconds()) / n }
	return fmt.Sprintf("| %s | %.1f | %.1f | %.0f | %.0f | %.0f | %.0f | %s | %s | %s | %s | %s | %s | %s | %s | %.1f | %d | %.0f | %s | %s | %s |", c.part.name,
		micro(edgeThen.cpu-edge.cpu, joins/each), micro(presenceThen.cpu-presence.cpu, joins),
		(edgeThen.heap-edge.heap)/(joins/each), (presenceThen.heap-presence.heap)/joins, edgeThen.resident/(1<<20), presenceThen.resident/(1<<20),
		ms(percentile(joinsLate, 99)), ms(percentile(lists, 50)), ms(percentile(lists, 99)), ms(percentile(joined, 50)), ms(percentile(joined, 99)),
		ms(percentile(leavesLate, 99)), ms(percentile(left, 50)), ms(percentile(left, 99)), pushes, most, bytes, ms(snapshot), ms(ready), ms(right))
}

// atTheirTimes has some users do something, one after the other in equal parts of a time,
// and waits for the end of the last. It tells how late each began, sorted.
func (c *crowd) atTheirTimes(from, to int, during time.Duration, do func(i int) error) (late []time.Duration) {
	c.Helper()
	began, every := time.Now(), during/time.Duration(to-from)
	var working sync.WaitGroup
	slots := make(chan struct{}, crowdDialers)
	failed := make(chan error, 1) // the first is enough
	for i := from; i < to && len(failed) == 0; i++ {
		due := began.Add(time.Duration(i-from) * every)
		if wait := time.Until(due); wait > time.Millisecond {
			<-time.After(wait)
		}
		slots <- struct{}{}
		late = append(late, time.Since(due))
		working.Go(func() {
			defer func() { <-slots }()
			if err := do(i); err != nil {
				select {
				case failed <- err:
				default:
				}
			}
		})
	}
	working.Wait()
	select {
	case err := <-failed:
		c.Fatal(err)
	default:
	}
	slices.Sort(late)
	return late
}

func (c *crowd) join(i int) error {
	ctx, cancel := context.WithTimeout(c.ctx, patience)
	defer cancel()
	options := carillon.Options{URL: "ws://" + c.at[i%len(c.at)] + "/v1/ws", Token: c.tokens[i]}
	for k := range c.per {
		options.Subscriptions = append(options.Subscriptions, c.names[c.channel(i, k)])
	}
	if c.watched {
		options.Presence = options.Subscriptions
	}
	client, err := carillon.Dial(ctx, options)
	if err != nil {
		return fmt.Errorf("%s: %w", crowdUser(i), err)
	}
	p := &person{client: client, joined: time.Now(), totals: map[string]int{}}
	c.people[i] = p
	for _, result := range client.Connected().GetSubscriptions() {
		if refused := result.GetError(); refused != nil {
			return fmt.Errorf("%s: %v", crowdUser(i), refused)
		}
	}
	c.reading.Go(func() { p.read(i < crowdObservers*c.per) })
	if c.asked {
		c.asking.Go(func() {
			if err := c.ask(p, crowdUser(i), options.Subscriptions); err != nil {
				c.unanswered.Add(1)
			}
		})
	}
	return nil
}

// ask asks who is in each of a user's channels, where it finds itself, unless a replica
// is late.
func (c *crowd) ask(p *person, user string, names []string) error {
	ctx, cancel := context.WithTimeout(c.ctx, patience)
	defer cancel()
	for _, name := range names {
		began := time.Now()
		reply, err := p.client.Presence(ctx, name)
		if err != nil {
			return err
		}
		took := time.Since(began)
		p.lists = append(p.lists, took)
		if took < crowdFence && !reply.GetTruncated() && !slices.ContainsFunc(reply.GetMembers(), func(m *clientv1.Member) bool { return m.GetUserId() == user }) {
			c.unseen.Add(1)
		}
	}
	return nil
}

func (c *crowd) leave(i int) error {
	p := c.people[i]
	p.left = time.Now()
	if err := p.client.Close(); err != nil {
		return fmt.Errorf("%s: %w", crowdUser(i), err)
	}
	return nil
}

// read counts the pushes until the connection ends. An observer keeps them.
func (p *person) read(observer bool) {
	for f := range p.client.Pushes() {
		push := f.GetPresenceChanged()
		if push == nil {
			continue
		}
		now := time.Now()
		p.mu.Lock()
		p.pushes++
		p.bytes += proto.Size(f)
		p.leaves += len(push.GetLeft())
		p.totals[push.GetChannel()] = int(push.GetTotal())
		if observer {
			p.told = append(p.told, told{now, push})
		}
		p.mu.Unlock()
	}
}

// pushed is what joining has cost a member in pushes, on the average and at most, and in
// bytes on the average.
func (c *crowd) pushed() (pushes float64, most int, bytes float64) {
	for _, p := range c.people {
		p.mu.Lock()
		pushes += float64(p.pushes) / crowdUsers
		most = max(most, p.pushes)
		bytes += float64(p.bytes) / crowdUsers
		p.mu.Unlock()
	}
	return pushes, most, bytes
}

// count asks a replica for the number of all members of all channels.
func (c *crowd) count(replica int) (int, error) {
	ctx, cancel := context.WithTimeout(c.ctx, time.Second)
	defer cancel()
	sum := 0
	for from := 0; from < c.channels; from += 1000 {
		request := &presencev1.CountMembersRequest{Channels: c.names[from:min(from+1000, c.channels)]}
		reply, err := c.counts[replica].CountMembers(ctx, request)
		if err != nil {
			return 0, err
		}
		for _, count := range reply.GetCounts() {
			sum += int(count.GetMembers())
		}
	}
	return sum, nil
}

// settled waits until every replica, and everybody who is still there and watches, knows
// that the first users are there, and nobody else.
func (c *crowd) settled(users int) {
	c.Helper()
	if c.namespace == "plain" {
		return
	}
	wanted := c.expected(users)
	eventually(c, "everybody knows who is there", func() error {
		for replica := range c.counts {
			if n, err := c.count(replica); n != users*c.per || err != nil {
				return fmt.Errorf("replica %d counts %d, want %d: %w", replica, n, users*c.per, err)
			}
		}
		if !c.watched {
			return nil
		}
		for i, p := range c.people[:users] {
			for k := range c.per {
				n := c.channel(i, k)
				p.mu.Lock()
				total, ok := p.totals[c.names[n]]
				p.mu.Unlock()
				if !ok && (c.channels > 1 || i > crowdUsers-crowdDialers) { // nobody may have come after
					continue
				}
				if total != wanted[n] {
					return fmt.Errorf("%s knows of %d in channel %d, want %d", crowdUser(i), total, n, wanted[n])
				}
			}
		}
		return nil
	})
}

// expected is how many of the first users are in each channel.
func (c *crowd) expected(users int) []int {
	members := make([]int, c.channels)
	for i := range users {
		for k := range c.per {
			members[c.channel(i, k)]++
		}
	}
	return members
}

// restartPresence kills a replica and starts it again. It tells how long from the start
// the replica took to hold every member, to answer, and to answer right. Nobody may be
// told of a leave.
func (c *crowd) restartPresence() (snapshot, ready, right time.Duration) {
	c.Helper()
	if c.namespace == "plain" {
		return 0, 0, 0
	}
	members := fmt.Sprintf("\ncarillon_presence_members %d\n", crowdUsers*c.per)
	c.presences[0].kill(c)
	began := time.Now()
	c.presences[0] = c.startPresence(0)
	eventually(c, "the replica knows who is there", func() error {
		if _, text := c.presences[0].get(c, "/metrics"); snapshot == 0 && strings.Contains(text, members) {
			snapshot = time.Since(began)
		}
		n, err := c.count(0)
		if err == nil && ready == 0 {
			ready = time.Since(began)
		}
		if err == nil && n != crowdUsers*c.per {
			err = fmt.Errorf("it counts %d, want %d", n, crowdUsers*c.per)
		}
		return err
	})
	right = time.Since(began)
	if right > ready+crowdTruth {
		c.Errorf("ready after %v, and right after %v", ready, right)
	}
	for i, p := range c.people {
		p.mu.Lock()
		if p.leaves > 0 {
			c.Errorf("%s was told of %d leaves, and nobody has left", crowdUser(i), p.leaves)
		}
		p.mu.Unlock()
	}
	return snapshot, ready, right
}

// latencies are how long observers took to know of those who joined after them, and of
// those who left: of the one channel, that there is one more, or less, and of many, who
// it is.
func (c *crowd) latencies() (joined, left []time.Duration) {
	users := map[string]int{}
	for i := range c.people {
		users[crowdUser(i)] = i
	}
	for i, observer := range c.people[:crowdObservers*c.per] {
		if c.channels == 1 {
			joins, leaves := c.counted(i, observer)
			joined, left = append(joined, joins...), append(left, leaves...)
			continue
		}
		known := map[[2]string]bool{}
		for _, t := range observer.told {
			for _, m := range t.push.GetJoined() {
				who := c.people[users[m.GetUserId()]]
				if key := [2]string{t.push.GetChannel(), m.GetUserId()}; !known[key] && who.joined.After(observer.joined) {
					known[key] = true
					joined = append(joined, t.at.Sub(who.joined))
				}
			}
			for _, m := range t.push.GetLeft() {
				left = append(left, t.at.Sub(c.people[users[m.GetUserId()]].left))
			}
		}
	}
	slices.Sort(joined)
	slices.Sort(left)
	return joined, left
}

// counted is how long after the n-th has joined, or left, an observer knew that there
// are n more, or less.
func (c *crowd) counted(index int, observer *person) (joined, left []time.Duration) {
	var joins, leaves []time.Time
	for _, p := range c.people {
		joins = append(joins, p.joined)
		if !p.left.IsZero() {
			leaves = append(leaves, p.left)
		}
	}
	slices.SortFunc(joins, time.Time.Compare)
	slices.SortFunc(leaves, time.Time.Compare)
	join, leave := index+crowdDialers, 0 // some of those after it were there before
	for _, t := range observer.told {
		if leave == 0 {
			for ; join < min(int(t.push.GetTotal()), len(joins)); join++ {
				joined = append(joined, max(0, t.at.Sub(joins[join])))
			}
		}
		if join == len(joins) {
			for ; leave < len(c.people)-int(t.push.GetTotal()); leave++ {
				left = append(left, max(0, t.at.Sub(leaves[leave])))
			}
		}
	}
	return joined, left
}
