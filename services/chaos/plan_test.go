package chaos

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The same seed makes the same plan, another makes another.
func TestPlanIsRepeatable(t *testing.T) {
	t.Parallel()
	plan := newPlan(42, 15*time.Minute, nemeses())
	if again := newPlan(42, 15*time.Minute, nemeses()); !reflect.DeepEqual(plan, again) {
		t.Errorf("the same seed made\n%+v\nand\n%+v", plan, again)
	}
	if other := newPlan(43, 15*time.Minute, nemeses()); reflect.DeepEqual(plan.Tracks, other.Tracks) {
		t.Error("another seed made the same plan")
	}
}

// In a quarter of an hour every nemesis comes several times, in every variant that it
// has twice over.
func TestLongPlan(t *testing.T) {
	t.Parallel()
	all := nemeses()
	times := map[string]int{}
	for _, track := range newPlan(1, 15*time.Minute, all).Tracks {
		at := time.Duration(0)
		for _, step := range track.Steps {
			if step.Variant != times[step.Nemesis] {
				t.Errorf("%s comes in variant %d the %dth time", step.Nemesis, step.Variant, times[step.Nemesis])
			}
			times[step.Nemesis]++
			at += step.After + step.Hold
		}
		if at > 15*time.Minute {
			t.Errorf("the track %s lasts %v", track.Name, at)
		}
	}
	for _, n := range all {
		if times[n.name] < 3 {
			t.Errorf("%s comes %d times", n.name, times[n.name])
		}
	}
}

// In little time each step is shorter, so that there are as many kinds.
func TestShortPlan(t *testing.T) {
	t.Parallel()
	chosen, err := choose([]string{"kill-edge", "pause-edge", "kill-publish", "vanish"})
	if err != nil {
		t.Fatal(err)
	}
	const duration = 16 * time.Second
	plan := newPlan(1, duration, chosen)
	if len(plan.Tracks) != 1 || plan.Tracks[0].Name != frontTrack {
		t.Fatalf("tracks: %+v", plan.Tracks)
	}
	kinds := map[string]bool{}
	for _, step := range plan.Tracks[0].Steps {
		kinds[step.Nemesis] = true
		if step.Hold > duration/2 {
			t.Errorf("%s holds for %v", step.Nemesis, step.Hold)
		}
	}
	if len(kinds) < 3 {
		t.Errorf("only %v", kinds)
	}
	var text strings.Builder
	plan.Print(&text)
	if lines := strings.Count(text.String(), "\n"); lines != 1+len(plan.Tracks[0].Steps) {
		t.Errorf("the plan has %d lines:\n%s", lines, text.String())
	}
}

func TestChoose(t *testing.T) {
	t.Parallel()
	if all, err := choose(nil); err != nil || len(all) != len(Nemeses()) {
		t.Errorf("%d nemeses, %v", len(all), err)
	}
	if _, err := choose([]string{"vanish", "sunshine"}); err == nil || !strings.Contains(err.Error(), "kill-leader") {
		t.Errorf("an unknown nemesis: %v, want the names that there are", err)
	}
	names := map[string]bool{}
	for _, n := range nemeses() {
		if names[n.name] || n.strike == nil || n.about == "" || n.least > n.most || (n.track != storeTrack && n.track != frontTrack) {
			t.Errorf("%+v", n)
		}
		names[n.name] = true
	}
}
