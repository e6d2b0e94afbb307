package chaos

import (
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"time"
)

// Step is one fault of a plan.
type Step struct {
	// After is how long its track rests before it.
	After time.Duration `json:"after"`
	// Nemesis is the name of the fault, Target and Variant what it does to whom: numbers
	// of which each nemesis makes its own choice.
	Nemesis string `json:"nemesis"`
	Target  int    `json:"target"`
	Variant int    `json:"variant"`
	// Hold is how long the fault lasts.
	Hold time.Duration `json:"hold"`
}

// Plan is what is done to a system, in tracks that run side by side. The same seed,
// duration and choice of nemeses make the same plan; what a step hits also depends on
// who leads at that time, and a track whose recovery takes long gets less far.
type Plan struct {
	Seed     uint64        `json:"seed"`
	Duration time.Duration `json:"duration"`
	Tracks   []Track       `json:"tracks"`
}

// Track is a sequence of steps.
type Track struct {
	Name  string `json:"name"`
	Steps []Step `json:"steps"`
}

// The tracks. Faults of the same track do not overlap, those of different ones do.
const (
	storeTrack = "store" // of NATS
	frontTrack = "front" // of everything before it
)

const (
	// recoveryEstimate is what a step takes beyond its rest and its hold, for the plan
	// to have about as many steps as there is time for.
	recoveryEstimate = 2 * time.Second
	leastRest        = time.Second
	mostRest         = 4 * time.Second
	unit             = 100 * time.Millisecond
)

// newPlan makes a plan. Each round of a track has each of its nemeses once, in another
// order, so that in a long run all come equally often.
func newPlan(seed uint64, duration time.Duration, chosen []*nemesis) Plan {
	plan := Plan{Seed: seed, Duration: duration}
	for i, name := range []string{storeTrack, frontTrack} {
		random := rand.New(rand.NewPCG(seed, uint64(i)))
		var own []*nemesis
		for _, n := range chosen {
			if n.track == name {
				own = append(own, n)
			}
		}
		if len(own) == 0 {
			continue
		}
		scale := scaleFor(duration, own)
		track := Track{Name: name}
		rounds := map[string]int{}
		for total := time.Duration(0); total < duration; {
			round := slices.Clone(own)
			random.Shuffle(len(round), func(i, j int) { round[i], round[j] = round[j], round[i] })
			for _, n := range round {
				step := Step{
					After: between(random, leastRest, mostRest, scale), Nemesis: n.name,
					Target: random.IntN(1000), Variant: rounds[n.name], Hold: between(random, n.least, n.most, scale),
				}
				rounds[n.name]++ // so that every variant has its turn
				if total += step.After + step.Hold + recoveryEstimate; total < duration {
					track.Steps = append(track.Steps, step)
				}
			}
		}
		plan.Tracks = append(plan.Tracks, track)
	}
	return plan
}

// scaleFor makes rests and holds shorter where a round would take longer than there is
// time for.
func scaleFor(duration time.Duration, some []*nemesis) float64 {
	recoveries, rest := time.Duration(0), time.Duration(0)
	for _, n := range some {
		recoveries += recoveryEstimate
		rest += mostRest + n.most
	}
	const least = 0.1
	return max(least, min(1, float64(duration-recoveries)/float64(rest)))
}

// between is a whole number of units.
func between(random *rand.Rand, least, most time.Duration, scale float64) time.Duration {
	d := least + time.Duration(random.Int64N(int64((most-least)/unit)+1))*unit
	return time.Duration(float64(d) * scale).Round(unit)
}

// Print writes a line for each step.
func (p Plan) Print(to io.Writer) {
	fmt.Fprintf(to, "plan: seed %d, %v\n", p.Seed, p.Duration)
	for _, track := range p.Tracks {
		at := time.Duration(0)
		for _, step := range track.Steps {
			at += step.After
			fmt.Fprintf(to, "  %-5s %7.1fs  %-20s target %-3d variant %-2d for %v\n", track.Name, at.Seconds(), step.Nemesis, step.Target, step.Variant, step.Hold)
			at += step.Hold + recoveryEstimate
		}
	}
}
