package report

import (
	"fmt"
	"slices"
)

// Join makes one report of several, of the same revision on the same machine, which have
// measured different phases: what takes long is measured apart from what is measured
// often.
func Join(reports ...Report) (Report, error) {
	joined := reports[0]
	joined.Phases, joined.Systems, joined.Results = slices.Clone(joined.Phases), slices.Clone(joined.Systems), slices.Clone(joined.Results)
	for _, r := range reports[1:] {
		where, at := joined.Machine, r.Machine
		at.Date = where.Date
		switch {
		case at != where:
			return Report{}, fmt.Errorf("of %+v, and of %+v: they are not one run", where, at)
		case r.Scale != joined.Scale:
			return Report{}, fmt.Errorf("at scale %v, and at scale %v: they are not one run", joined.Scale, r.Scale)
		}
		for _, phase := range r.Phases {
			if slices.Contains(joined.Phases, phase) {
				return Report{}, fmt.Errorf("%s was measured by two of them", phase.Name)
			}
			joined.Phases = append(joined.Phases, phase)
		}
		for _, system := range r.Systems {
			if !slices.Contains(joined.Systems, system) {
				joined.Systems = append(joined.Systems, system)
			}
		}
		joined.Results = append(joined.Results, r.Results...)
		if r.Machine.Date.Before(joined.Machine.Date) {
			joined.Machine.Date = r.Machine.Date
		}
	}
	return joined, nil
}
