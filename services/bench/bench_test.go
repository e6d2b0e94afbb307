//go:build linux

package bench

import (
	"bytes"
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/carillon-rt/carillon/services/bench/report"
	"github.com/carillon-rt/carillon/services/bench/system"
)

func TestWhatThereIsNotIsNamedBesideWhatThereIs(t *testing.T) {
	for _, test := range []struct {
		options Options
		want    []string
	}{
		{Options{Phases: []string{"idle", "sprint"}}, []string{`--phases: "sprint"`, "fanout-window8", "soak"}},
		{Options{Systems: []string{"abacus"}}, []string{`--systems: "abacus"`, "carillon"}},
	} {
		_, err := Run(t.Context(), test.options)
		if _, ok := errors.AsType[InputError](err); !ok {
			t.Fatalf("%+v: %v", test.options, err)
		}
		for _, text := range test.want {
			if !strings.Contains(err.Error(), text) {
				t.Errorf("%v does not have %q", err, text)
			}
		}
	}
}

func TestPhasesOnRequestAreRunOnlyIfTheyAreNamed(t *testing.T) {
	names := func(o Options) (names []string) {
		phases, err := o.phases()
		if err != nil {
			t.Fatal(err)
		}
		for _, phase := range phases {
			names = append(names, phase.Name)
		}
		return names
	}
	if all := names(Options{}); slices.Contains(all, "soak") || !slices.Contains(all, "idle") {
		t.Errorf("by default: %v", all)
	}
	if named := names(Options{Phases: []string{"soak", "idle"}}); !slices.Equal(named, []string{"idle", "soak"}) {
		t.Errorf("idle and soak: %v", named)
	}
}

func TestListNamesEveryPhaseAndSystem(t *testing.T) {
	var out bytes.Buffer
	if err := List(&out); err != nil {
		t.Fatal(err)
	}
	for _, phase := range slices.Concat(Phases(), onRequest()) {
		if !strings.Contains(out.String(), "\n"+phase.Name+" ") && !strings.HasPrefix(out.String(), phase.Name+" ") {
			t.Errorf("no phase %s in\n%s", phase.Name, out.String())
		}
	}
	if !strings.Contains(out.String(), "\ncarillon ") {
		t.Errorf("no system in\n%s", out.String())
	}
}

// nothing is a system that does not start.
type nothing struct {
	system.Carillon
	err error
}

func (n nothing) Start(context.Context, system.Options) (system.Server, error) { return nil, n.err }

func TestWhatOnePhaseFoundIsKeptWhateverBecameOfIt(t *testing.T) {
	find := func(_ context.Context, r *run) error {
		r.result.Metrics["found"] = 1
		_, err := r.system.Start(t.Context(), system.Options{})
		return err
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, test := range []struct {
		name            string
		ctx             context.Context
		err             error
		failed, skipped string
	}{
		{"all is well", t.Context(), nil, "", ""},
		{"not installed", t.Context(), system.ErrNotInstalled, "", "not installed"},
		{"many of a kind", t.Context(), errors.Join(errors.New("a"), errors.New("a"), errors.New("b"), errors.New("c"), errors.New("d")), "a; b; c; and 1 more", ""},
		{"interrupted", cancelled, context.Canceled, "interrupted", ""},
	} {
		o := Options{Dir: t.TempDir(), Out: &bytes.Buffer{}, Scale: 1}
		got := o.runOne(test.ctx, 0, Phase{Name: "p", run: find}, nothing{err: test.err})
		if got.Failed != test.failed || got.Skipped != test.skipped || got.Metrics["found"] != 1 || got.Round != 1 {
			t.Errorf("%s: %+v", test.name, got)
		}
	}
}

func TestARunThatIsInterruptedReturnsWhatItFound(t *testing.T) {
	ctx, interrupt := context.WithCancel(t.Context())
	found := func(_ context.Context, r *run) error {
		r.result.Metrics["found"] = 1
		if r.system.Name() == "last" {
			interrupt()
			return ctx.Err()
		}
		return nil
	}
	o := Options{Dir: t.TempDir(), Out: &bytes.Buffer{}, Rounds: 1, Scale: 1}
	got, err := o.measure(ctx, []Phase{{Name: "p", run: found, systems: []system.System{named{name: "first"}, named{name: "last"}}}})
	if !errors.Is(err, context.Canceled) || len(got.Results) != 2 || got.Results[0].Failed != "" || got.Results[1].Failed != "interrupted" {
		t.Errorf("%v, %+v", err, got.Results)
	}
	if summary, ok := got.Summary("p", "last", "found"); !ok || summary.Median != 1 {
		t.Errorf("what was found before is lost: %v", summary)
	}
}

// named is a system of another name.
type named struct {
	system.Carillon
	name string
}

func (n named) Name() string { return n.name }

func TestSystemsHaveOneOrder(t *testing.T) {
	o := Options{Phases: []string{"publish", "unicast"}, Out: &bytes.Buffer{}}
	phases, err := o.phases()
	if err != nil {
		t.Fatal(err)
	}
	found, err := o.measure(t.Context(), phases) // no rounds
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range found.Systems {
		names = append(names, s.Name)
	}
	var want []string
	for _, s := range systems(Phases()) {
		want = append(want, s.Name())
	}
	if !slices.Equal(names, want) {
		t.Errorf("%v, want %v", names, want)
	}
}

func TestScaleMakesPhasesSmallerAndShorter(t *testing.T) {
	r := &run{Options: &Options{Scale: 0.05}}
	if r.scaled(2000) != 100 || r.scaled(10) != 1 || r.length() != length/20 || r.scaledTime(time.Minute) != 3*time.Second {
		t.Errorf("%d, %d, %v, %v", r.scaled(2000), r.scaled(10), r.length(), r.scaledTime(time.Minute))
	}
}

func TestPercentileIsInMilliseconds(t *testing.T) {
	var all []time.Duration
	for i := range 1001 {
		all = append(all, time.Duration(i)*time.Millisecond)
	}
	for part, want := range map[float64]float64{.5: 500, .99: 990, .999: 999, 1: 1000} {
		if got := percentile(all, part); got != want {
			t.Errorf("%v: %v, want %v", part, got, want)
		}
	}
}

func TestBendIsOneForALine(t *testing.T) {
	line := []report.Point{{1, 10}, {2, 20}, {5, 50}, {10, 100}}
	if got := bend(line); math.Abs(got-1) > 1e-9 {
		t.Errorf("a line bends by %v", got)
	}
	line[3][1] = 200
	if got := bend(line); got < 1.2 {
		t.Errorf("a curve that turns up bends by %v", got)
	}
}

func TestNumbersBeginAgainOnceEverybodyHasEveryMessage(t *testing.T) {
	m := newMessages(1)
	for range 3 {
		number := m.next(1, time.Now())
		m.receive(0, number, time.Now())
		if err := m.wait(number); err != nil {
			t.Fatal(err)
		}
		m.forget()
	}
	if got := len(m.latencies()); got != 3 {
		t.Errorf("%d latencies of 3 messages", got)
	}
}

func TestEverySecondRoundIsTheOtherWayRound(t *testing.T) {
	t.Parallel()
	two := []system.System{system.Carillon{}, system.Carillon{Traced: true}}
	for round, first := range []string{"carillon", "carillon-traced", "carillon"} {
		if got := inTurn(two, round)[0].Name(); got != first || two[0].Name() != "carillon" {
			t.Errorf("round %d begins with %s, want %s", round, got, first)
		}
	}
}
