package stream

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/carillon-rt/carillon/services/internal/message"
)

func told(epoch message.Epoch, first, last message.Offset) standing {
	return standing{
		Bounds:   message.Bounds{Epochs: []message.EpochStart{{Epoch: epoch, First: 1}}, First: first, Last: last},
		lastTime: time.Unix(int64(last), 0),
	}
}

// What ends before what is known is not believed, and counts only if it persists.
func TestInvariantEpochEndsWhenWhatIsKnownIsLost(t *testing.T) {
	t.Parallel()
	type answer struct {
		after time.Duration // since the one before
		told  standing
		want  verdict
	}
	for _, tt := range []struct {
		name    string
		answers []answer
	}{
		{"it grows", []answer{{0, told("a", 1, 5), believed}, {0, told("a", 3, 9), believed}}},
		{"a new leader catches up", []answer{
			{0, told("a", 1, 9), believed},
			{0, told("a", 1, 7), doubtful},
			{2 * time.Second, told("a", 1, 8), doubtful},
			{time.Hour, told("a", 1, 9), believed},
			{0, told("a", 1, 8), doubtful},
			{3 * time.Second, told("a", 1, 8), doubtful},
			{0, told("a", 1, 8), doubtful},
		}},
		{"it stays behind", []answer{
			{0, told("a", 1, 9), believed},
			{0, told("a", 1, 7), doubtful},
			{2 * time.Second, told("a", 1, 7), doubtful},
			{2 * time.Second, told("a", 1, 8), gone},
			{time.Second, told("a", 1, 9), gone}, // once and for all
		}},
		{"few answers prove nothing", []answer{
			{0, told("a", 1, 9), believed},
			{0, told("a", 1, 7), doubtful},
			{time.Hour, told("a", 1, 7), doubtful},
			{0, told("a", 1, 7), gone},
		}},
		{"another epoch counts at once", []answer{
			{0, told("a", 1, 9), believed}, {0, told("b", 1, 2), believed}, {0, told("b", 1, 1), doubtful},
		}},
		{"a past epoch does not come back", []answer{
			{0, told("a", 1, 9), believed},
			{0, told("b", 1, 9), believed},
			{0, told("a", 1, 9), doubtful},
			{time.Hour, told("b", 1, 9), believed},
			{0, told("a", 1, 9), doubtful},
			{5 * time.Second, told("a", 1, 9), doubtful},
			{0, told("a", 1, 9), gone}, // unless it does
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var m memory
			now := time.Now()
			for i, a := range tt.answers {
				now = now.Add(a.after)
				var known message.Offset
				if m.lineage != nil {
					known = m.lineage.highest()
				}
				if got := m.judge(m.lineage, known, a.told, now); got != a.want {
					t.Fatalf("answer %d, %+v: verdict %d, want %d", i, a.told.Bounds, got, a.want)
				}
			}
		})
	}
}

func TestWhatIsLearntMeanwhileIsNoContradiction(t *testing.T) {
	t.Parallel()
	var m memory
	m.judge(nil, 0, told("a", 1, 5), time.Now())
	asked, known := m.lineage, m.lineage.highest()
	m.lineage.saw(9) // acknowledged after the question was asked
	if got := m.judge(asked, known, told("a", 1, 5), time.Now()); got != believed {
		t.Errorf("verdict %d", got)
	}
	if m.lineage.highest() != 9 {
		t.Errorf("known %d", m.lineage.highest())
	}
	m.judge(asked, known, told("b", 1, 2), time.Now())
	if got := m.judge(asked, known, told("a", 1, 9), time.Now()); got != doubtful || m.lineage.epoch != "b" {
		t.Errorf("an answer from before the epoch: verdict %d, epoch %q", got, m.lineage.epoch)
	}
}

func TestWitnessIsAskedForAfterADoubt(t *testing.T) {
	t.Parallel()
	var m memory
	asks := func(s standing) bool {
		_, ask := m.suspect(m.lineage, s)
		return ask
	}
	if asks(told("a", 1, 5)) {
		t.Error("nothing is known yet")
	}
	m.judge(nil, 0, told("a", 1, 5), time.Now())
	if asks(told("a", 1, 6)) {
		t.Error("there was no doubt")
	}
	m.judge(m.lineage, 5, told("a", 1, 4), time.Now())
	for _, tt := range []struct {
		told standing
		want bool
	}{
		{told("a", 1, 4), false}, // it is not there: doubtful anyway
		{told("a", 1, 5), true},
		{told("a", 5, 8), true},
		{told("a", 6, 8), false}, // trimmed
		{told("b", 1, 8), false},
	} {
		if got := asks(tt.told); got != tt.want {
			t.Errorf("%+v: %v", tt.told.Bounds, got)
		}
	}
	m.judge(m.lineage, 5, told("a", 1, 8), time.Now())
	if asks(told("a", 1, 9)) {
		t.Error("it was believed")
	}
}

func TestEpochsAreBounded(t *testing.T) {
	t.Parallel()
	starts := newEpoch(nil, 1)
	for i := range 3 * maxEpochs {
		before := starts
		starts = newEpoch(starts, message.Offset(i+2))
		if last := starts[len(starts)-1]; len(starts) > maxEpochs || last.First != message.Offset(i+2) || starts[len(starts)-2] != before[len(before)-1] {
			t.Fatalf("%d epochs, the last %+v", len(starts), last)
		}
	}
	if again, err := epochsOf(map[string]string{metadataEpochs: epochsText(starts)}); err != nil || len(again) != maxEpochs {
		t.Errorf("%d epochs, %v", len(again), err)
	}
	if starts := newEpoch(starts, 1); len(starts) != 1 {
		t.Errorf("an epoch from the beginning keeps %d others", len(starts)-1)
	}
	var m memory
	for i := range 3 * maxRetired {
		m.judge(m.lineage, 0, told(message.Epoch(fmt.Sprint(i)), 1, 1), time.Now())
	}
	if len(m.retired) != maxRetired {
		t.Errorf("%d epochs remembered", len(m.retired))
	}
}

func infoText(cluster string) string {
	return `{"config":{"metadata":{"carillon.epochs":"[{\"epoch\":\"a\",\"first\":1}]"}},` +
		`"state":{"first_seq":3,"last_seq":9,"last_ts":"2026-01-02T03:04:05.6Z"}` + cluster + `}`
}

// Only a leader that hears from most replicas within the time of an election knows what
// others have been told.
func TestOnlyALeaderWithItsReplicasIsBelieved(t *testing.T) {
	t.Parallel()
	replicas := func(active ...time.Duration) string {
		var list []string
		for _, a := range active {
			list = append(list, fmt.Sprintf(`{"active":%d}`, a))
		}
		return `,"cluster":{"leader":"n","replicas":[` + strings.Join(list, ",") + `]}`
	}
	for _, tt := range []struct {
		name, cluster string
		want          error
	}{
		{"no cluster", "", nil},
		{"one replica", replicas(), nil},
		{"both are heard", replicas(1, time.Second), nil},
		{"one is heard", replicas(time.Second, time.Minute), nil},
		{"none is heard", replicas(leaderLease+1, time.Minute), errDeposed},
		{"one was never heard", replicas(0, time.Minute), errDeposed},
		{"no leader", `,"cluster":{"replicas":[{"active":1},{"active":1}]}`, errNotLed},
	} {
		got, err := decodeStanding([]byte(infoText(tt.cluster)))
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
		if tt.want == nil && (got.First != 3 || got.Last != 9 || got.Epoch() != "a" || got.witness().offset != 9 || got.lastTime.Nanosecond() == 0) {
			t.Errorf("%s: %+v", tt.name, got)
		}
	}
}

func FuzzStanding(f *testing.F) {
	f.Add([]byte(infoText("")))
	f.Add([]byte(infoText(`,"cluster":{"leader":"n","replicas":[{"active":1},{"active":9000000000}]}`)))
	f.Add([]byte(`{"error":{"code":404,"err_code":10059}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := decodeStanding(data)
		if err == nil && (got.Epoch() == "" || got.First < 1 || got.witness().offset > got.Last) {
			t.Errorf("%+v", got)
		}
	})
}

// A second power cut may take what the first has left: then the epoch of the first ends
// before its beginning, and the metadata can still be read.
func TestEpochThatBeginsBeforeTheLast(t *testing.T) {
	t.Parallel()
	starts := newEpoch([]message.EpochStart{{Epoch: "a", First: 1}, {Epoch: "b", First: 101}}, 51)
	starts, err := epochsOf(map[string]string{metadataEpochs: epochsText(starts)})
	if err != nil {
		t.Fatal(err)
	}
	bounds := message.Bounds{Epochs: starts, First: 1, Last: 60}
	for position, want := range map[message.Position]bool{
		{Epoch: "a", Offset: 50}: true, {Epoch: "a", Offset: 51}: false, {Epoch: "b", Offset: 101}: false,
	} {
		if bounds.Knows(position) != want {
			t.Errorf("%+v is known: %t", position, !want)
		}
	}
}
