package report

import (
	"errors"
	"fmt"
	"strings"
)

// tolerance is by how much a cost may be worse than in an older run.
const tolerance = 0.15

// Compare puts a run beside an older one as a table, and counts Carillon's costs that
// have become worse: by more than 15 % in the median, and in every round more than in
// any round of the older run, so that one slow round is no alarm. Delays and rates, and
// what other systems cost, are shown only: they tell how alike the machines were.
func (r Report) Compare(old Report) (table string, worse int, err error) {
	if r.Scale != old.Scale {
		return "", 0, fmt.Errorf("scale %v cannot be compared with scale %v", r.Scale, old.Scale)
	}
	rows := [][]string{{"phase", "system", "", "before", "now", "×", ""}}
	for _, phase := range r.Phases {
		for _, name := range r.metrics(phase.Name) {
			metric := about(name)
			for _, system := range r.systems(phase.Name, name) {
				before, ok := old.Summary(phase.Name, system, name)
				now, _ := r.Summary(phase.Name, system, name)
				if !ok || metric.kind == fact {
					continue
				}
				row := []string{phase.Name, system, metric.label, number(before.Median), number(now.Median), "", ""}
				if before.Median != 0 {
					row[5] = number(now.Median / before.Median)
				}
				if system == own && metric.kind == cost && isWorse(before, now, metric.grain) {
					row[6] = "**worse**"
					worse++
				}
				rows = append(rows, row)
			}
		}
	}
	if len(rows) == 1 {
		return "", 0, errors.New("the runs have nothing in common")
	}
	var b strings.Builder
	fmt.Fprintf(&b, "### Beside revision %s of %s\n\n", old.Machine.Revision, old.Machine.Date.UTC().Format("2006-01-02"))
	writeTable(&b, rows)
	return b.String(), worse, nil
}

func isWorse(before, now Summary, grain float64) bool {
	return now.Median > before.Median*(1+tolerance) && now.Median > before.Median+grain && now.Min > before.Max
}
