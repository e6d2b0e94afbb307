package report

import (
	"math"

	"gonum.org/v1/gonum/stat"
	"gonum.org/v1/gonum/stat/distuv"
)

const (
	// confidence is that of the bound of Paired.
	confidence = 0.95
	// minPairs are rounds enough to tell a bound.
	minPairs = 5
)

// Paired is how many times a metric of a system is that of another, round by round: what
// a round has in common, as a slow machine, cancels out.
type Paired struct {
	Mean float64
	// Most is the upper bound of 95 % for the mean, by Student's distribution.
	Most  float64
	Pairs int
}

// Paired compares a system with another; false: they have too few rounds in common.
func (r Report) Paired(phase, system, other, metric string) (Paired, bool) {
	type pair struct{ of, to float64 }
	rounds := map[int]pair{}
	for _, result := range r.Results {
		value, ok := result.Metrics[metric]
		if !ok || result.Phase != phase {
			continue
		}
		p := rounds[result.Round]
		switch result.System {
		case system:
			p.of = value
		case other:
			p.to = value
		}
		rounds[result.Round] = p
	}
	var ratios []float64
	for _, p := range rounds {
		if p.of > 0 && p.to > 0 {
			ratios = append(ratios, p.of/p.to)
		}
	}
	if len(ratios) < minPairs {
		return Paired{}, false
	}
	mean, deviation := stat.MeanStdDev(ratios, nil)
	pairs := float64(len(ratios))
	quantile := distuv.StudentsT{Sigma: 1, Nu: pairs - 1}.Quantile(confidence)
	return Paired{mean, mean + quantile*deviation/math.Sqrt(pairs), len(ratios)}, true
}
