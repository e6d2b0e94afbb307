// Package capacity_test holds the arithmetic of docs/capacity.md to what is measured, at
// the largest scale that a small machine holds.
package capacity_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/carillon-rt/carillon/services/bench/capacity"
	"github.com/carillon-rt/carillon/services/bench/herd"
	"github.com/carillon-rt/carillon/services/bench/process"
	"github.com/carillon-rt/carillon/services/bench/system"
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/presence/view"
)

// The NATS server leaves one behind that tells it the time.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/nats-io/nats-server/v2/server/ats.Register.func1"))
}

// BenchmarkCapacity takes what something costs at a tenth, which foretells what all of it
// costs within a fifth. Memory is live bytes of the heap, since how much garbage stands beside it is chance.
func BenchmarkCapacity(b *testing.B) {
	b.Run("members=1000000", func(b *testing.B) {
		const most = 1_000_000
		tenth := membersBytes(b, most/10) / (most / 10)
		costs := capacity.Costs{MemberBytes: tenth}
		foretold(b, "bytes", plan(costs, most).PresenceBytes, membersBytes(b, most))
		b.ReportMetric(tenth, "B/member")
	})
	b.Run("interest=100000", func(b *testing.B) {
		const most = 100_000
		bytes, cpu := interest(b, most/10)
		costs := capacity.Costs{InterestBytes: bytes / (most / 10), Interest: cpu / (most / 10)}
		allBytes, allCPU := interest(b, most)
		foretold(b, "bytes", most*costs.InterestBytes, allBytes)
		b.ReportMetric(costs.InterestBytes, "B/subject-server")
		b.ReportMetric(float64(allCPU.Nanoseconds())/most, "cpu-ns/subject-server")
	})
	b.Run("channels=100000", func(b *testing.B) {
		const clients, most = 1000, 100
		carillon := built(b)
		none, _ := edgeOf(b, carillon, clients, 0)
		some, _ := edgeOf(b, carillon, clients, most/10)
		costs := capacity.Costs{ChannelBytes: (some - none) / (clients * most / 10)}
		all, cores := edgeOf(b, carillon, clients, most)
		foretold(b, "bytes", none+clients*most*costs.ChannelBytes, all)
		b.ReportMetric(costs.ChannelBytes, "B/channel")
		b.ReportMetric(100*cores, "%-of-a-core-idle")
	})
}

// plan is for so many connections, of whom nobody does anything.
func plan(costs capacity.Costs, connections float64) capacity.Needs {
	load := capacity.Usual(connections)
	return capacity.Plan(costs, load, capacity.Eight)
}

func foretold(b *testing.B, what string, foretold, measured float64) {
	b.Helper()
	b.ReportMetric(measured, what)
	b.ReportMetric(100*(measured/foretold-1), "%-more-than-foretold")
	if math.Abs(measured/foretold-1) > 0.2 {
		b.Errorf("a tenth foretells %.4g %s, and there are %.4g", foretold, what, measured)
	}
}

// live is what is reachable of this process's heap.
func live() float64 {
	runtime.GC()
	runtime.GC() // what the first has found to be finalizable
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

// membersBytes is what a presence replica holds of so many members, in rooms of a
// thousand, each with a connection.
func membersBytes(b *testing.B, members int) float64 {
	before := live()
	v := view.New(view.Options{Alone: true, MaxConnections: members})
	defer v.Close()
	session, err := v.Open("edge", 1)
	if err != nil {
		b.Fatal(err)
	}
	const atOnce = 1000
	for from := 0; from < members; from += atOnce {
		var part view.Part
		for n := from; n < from+atOnce; n++ {
			user := channel.User(fmt.Sprintf("user-%07d", n))
			part.Connections = append(part.Connections, view.Connection{ID: fmt.Sprintf("connection-%07d", n), User: user, Since: 1})
			part.Attendances = append(part.Attendances, view.Attendance{
				Channel: channel.Name(fmt.Sprintf("chat.room-%05d", n%max(1, members/1000))), User: user, Connections: 1, Since: 1,
			})
		}
		if err := session.Snapshot(part, from+atOnce >= members); err != nil {
			b.Fatal(err)
		}
	}
	used := live() - before
	if stats := v.Stats(); stats.Members != members {
		b.Fatalf("%d members of %d", stats.Members, members)
	}
	return used
}

// interest is what each of three NATS servers in a cluster pays for so many subjects
// that a client of one of them subscribes to.
func interest(b *testing.B, subjects int) (bytes float64, cpu time.Duration) {
	const servers = 3
	var all []*server.Server
	for n := range servers {
		o := &server.Options{
			ServerName: fmt.Sprint("n", n), Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true, NoSystemAccount: true,
			Cluster: server.ClusterOpts{Name: "capacity", Host: "127.0.0.1", Port: server.RANDOM_PORT},
		}
		if n > 0 {
			o.Routes = []*url.URL{{Scheme: "nats", Host: all[0].ClusterAddr().String()}}
		}
		s, err := server.NewServer(o)
		if err != nil {
			b.Fatal(err)
		}
		s.Start()
		defer s.WaitForShutdown()
		defer s.Shutdown()
		all = append(all, s)
		eventually(b, "the server serves", func() error { return ready(s) })
	}
	known := func(want int) func() error {
		return func() error {
			for _, s := range all {
				if got := int(s.NumSubscriptions()); got < want {
					return fmt.Errorf("%s knows %d subjects of %d", s.Name(), got, want)
				}
			}
			return nil
		}
	}
	conn, err := net.Dial("tcp", all[0].Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	subscribe := func(from, to int) {
		w := bufio.NewWriter(conn)
		for n := from; n < to; n++ {
			fmt.Fprintf(w, "SUB rt.out.0.user.u%07d %d\r\n", n, n+1)
		}
		if err := w.Flush(); err != nil {
			b.Fatal(err)
		}
		eventually(b, "every server knows every subject", known(to))
	}
	fmt.Fprint(conn, "CONNECT {\"verbose\":false}\r\n")
	// The routes must be there: what a new one is told is not what is measured.
	subscribe(0, 1)
	before, began := live(), cpuTime()
	subscribe(1, subjects)
	cpu = cpuTime() - began
	return (live() - before) / servers, cpu / servers
}

func ready(s *server.Server) error {
	if !s.ReadyForConnections(time.Second) {
		return fmt.Errorf("%s is not ready", s.Name())
	}
	return nil
}

// cpuTime is what this process has used.
func cpuTime() time.Duration {
	var used unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &used) // it is always there
	return time.Duration(used.Nano())
}

var heapBytes = regexp.MustCompile(`(?m)^# HeapAlloc = (\d+)$`)

// edgeOf is the live heap of a whole process with so many connections that hear a shared
// channel and so many of their own each, and the part of a core that it uses.
func edgeOf(b *testing.B, carillon string, clients, each int) (bytes, cores float64) {
	driver := system.Carillon{}
	started, err := driver.Start(b.Context(), system.Options{Dir: b.TempDir(), Carillon: carillon, Quiet: true, Profile: true})
	if err != nil {
		b.Fatal(err)
	}
	defer started.Stop()
	crowd, err := herd.New(func(int, uint64, time.Time) {})
	if err != nil {
		b.Fatal(err)
	}
	defer crowd.Close()
	var all []herd.Client
	for n := range clients {
		channels := []system.Subscription{{Channel: system.Shared("all")}}
		for k := range each {
			channels = append(channels, system.Subscription{Channel: system.Shared(fmt.Sprintf("c%d-%d", n, k))})
		}
		client, err := started.(system.Deliverer).Client(n, 0, channels...)
		if err != nil {
			b.Fatal(err)
		}
		all = append(all, client)
	}
	ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
	defer cancel()
	if err := crowd.Connect(ctx, all, 64); err != nil {
		b.Fatal(err)
	}
	ops := started.(interface{ Ops() []string }).Ops()[0]
	for range 2 { // the first collection is what makes the second find what it freed
		page := get(b, "http://"+ops+"/debug/pprof/heap?gc=1&debug=1")
		if bytes, err = strconv.ParseFloat(heapBytes.FindStringSubmatch(page)[1], 64); err != nil {
			b.Fatal(err)
		}
	}
	const quiet = 5 * time.Second
	before, err := process.Use(started.Processes()...)
	if err != nil {
		b.Fatal(err)
	}
	<-time.After(quiet)
	after, err := process.Use(started.Processes()...)
	if err != nil {
		b.Fatal(err)
	}
	return bytes, (after.CPU - before.CPU).Seconds() / quiet.Seconds()
}

func get(b *testing.B, url string) string {
	response, err := http.Get(url)
	if err != nil {
		b.Fatal(err)
	}
	defer http.DefaultClient.CloseIdleConnections()
	defer response.Body.Close()
	page, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		b.Fatalf("%s: %s, %v", url, response.Status, err)
	}
	return string(page)
}

// built builds the program.
func built(b *testing.B) string {
	program := filepath.Join(b.TempDir(), "carillon")
	if text, err := exec.Command("go", "build", "-o", program, "github.com/carillon-rt/carillon/services/carillon").CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, text)
	}
	return program
}

// eventually tries again until there is no error.
func eventually(b *testing.B, what string, try func() error) {
	deadline := time.After(time.Minute)
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for {
		err := try()
		if err == nil {
			return
		}
		select {
		case <-deadline:
			b.Fatalf("%s: %v", what, err)
		case <-again.C:
		}
	}
}
