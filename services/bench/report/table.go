package report

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Markdown is all of it as tables, which can be read as they are.
func (r Report) Markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %d cores (%s), kernel %s, %s, revision %s.\n",
		r.Machine.Date.UTC().Format("2006-01-02 15:04 UTC"), r.Machine.Cores, r.Machine.CPU, r.Machine.Kernel, r.Machine.Go, r.Machine.Revision)
	fmt.Fprintf(&b, "Each number is the median of %s, where nothing else is said.\n", plural(r.rounds(""), "round"))
	if r.Scale != 1 {
		fmt.Fprintf(&b, "**A first look at scale %v: smaller and shorter than what the goals are for.**\n", r.Scale)
	}
	r.writeGoals(&b)
	for _, phase := range r.Phases {
		r.writePhase(&b, phase)
	}
	r.writeSystems(&b)
	return b.String()
}

// rounds is how often a phase was measured; "": that of which there is most.
func (r Report) rounds(phase string) int {
	most := 0
	for _, result := range r.Results {
		if phase == "" || result.Phase == phase {
			most = max(most, result.Round)
		}
	}
	return most
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func (r Report) writeGoals(b *strings.Builder) {
	all := r.goals()
	if len(all) == 0 {
		return
	}
	rows := [][]string{{"phase", "", "Carillon", "goal", ""}}
	for _, g := range all {
		label, bound := about(g.metric).label, "≤ "+number(g.most)
		if g.of != "" {
			label, bound = label+" ÷ "+g.of+"'s", "≥ "+number(g.least)
		}
		rows = append(rows, []string{g.phase, label, number(g.value), bound, verdict(g)})
	}
	b.WriteString("\n### Goals\n\n")
	writeTable(b, rows)
}

func verdict(g found) string {
	switch {
	case g.met:
		return "met"
	case g.of != "":
		return fmt.Sprintf("**missed by %.0f %%**", math.Ceil(100*(1-g.value/g.least)))
	default:
		return fmt.Sprintf("**missed by %.0f %%**", math.Ceil(100*(g.value/g.most-1)))
	}
}

// writePhase writes what there is of a phase.
func (r Report) writePhase(b *strings.Builder, phase Title) {
	var parts []string
	for _, part := range []string{r.metricTable(phase.Name), r.curveTables(phase.Name), r.notes(phase.Name)} {
		if part != "" {
			parts = append(parts, part)
		}
	}
	if len(parts) > 0 {
		fmt.Fprintf(b, "\n### %s\n\n%s.", phase.Name, upperFirst(phase.About))
		if n := r.rounds(phase.Name); n < r.rounds("") {
			fmt.Fprintf(b, " *%s.*", plural(n, "round"))
		}
		fmt.Fprintf(b, "\n\n%s", strings.Join(parts, "\n"))
	}
}

// notes say what is missing, and why: each reason once.
func (r Report) notes(phase string) string {
	var notes []string
	for _, result := range r.Results {
		note := ""
		switch {
		case result.Phase != phase:
		case result.Failed != "":
			note = fmt.Sprintf("- %s, round %d, failed: %s\n", result.System, result.Round, result.Failed)
		case result.Skipped != "":
			note = fmt.Sprintf("- %s: %s\n", result.System, result.Skipped)
		}
		if note != "" && !slices.Contains(notes, note) {
			notes = append(notes, note)
		}
	}
	return strings.Join(notes, "")
}

func (r Report) metricTable(phase string) string {
	first := r.Systems[0].Name
	rows := [][]string{{"", "system", "median", "min – max", "× " + first}}
	if r.rounds(phase) >= minPairs {
		rows[0] = append(rows[0], "round by round; at most (95 %)")
	}
	for _, name := range r.metrics(phase) {
		base, hasBase := r.Summary(phase, first, name)
		for i, system := range r.systems(phase, name) {
			summary, _ := r.Summary(phase, system, name)
			label, ratio := "", ""
			if i == 0 {
				label = about(name).label
			}
			if hasBase && base.Median != 0 && system != first && about(name).kind != fact {
				ratio = number(summary.Median / base.Median)
			}
			row := []string{label, system, number(summary.Median), number(summary.Min) + " – " + number(summary.Max), ratio}
			if paired, ok := r.Paired(phase, system, first, name); ok && ratio != "" {
				row = append(row, fmt.Sprintf("%.3f; %.3f", paired.Mean, paired.Most))
			}
			rows = append(rows, row)
		}
	}
	if len(rows) == 1 {
		return ""
	}
	var b strings.Builder
	writeTable(&b, rows)
	return b.String()
}

// maxPlaces is how long a curve may be that is a table too; longer ones are plots.
const maxPlaces = 10

// curveTables are the curves of a phase, a column a place.
func (r Report) curveTables(phase string) string {
	var tables []string
	for _, curve := range curves {
		var rows [][]string
		for _, system := range r.Systems {
			points := r.Curve(phase, system.Name, curve.name)
			if curve.phase != phase || len(points) == 0 || len(points) > maxPlaces {
				continue
			}
			head, row := []string{curve.y + " at " + curve.x}, []string{system.Name}
			for _, p := range points {
				head, row = append(head, number(p[0])), append(row, number(p[1]))
			}
			if len(rows) == 0 {
				rows = append(rows, head)
			}
			rows = append(rows, row)
		}
		if len(rows) > 0 {
			var b strings.Builder
			writeTable(&b, rows)
			tables = append(tables, b.String())
		}
	}
	return strings.Join(tables, "\n")
}

func (r Report) writeSystems(b *strings.Builder) {
	b.WriteString("\n### Systems\n\n")
	rows := [][]string{{"system", "what it is"}}
	for _, system := range r.Systems {
		rows = append(rows, []string{system.Name, system.About})
	}
	writeTable(b, rows)
}

func upperFirst(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

// number writes three digits that count, and all of a whole part.
func number(v float64) string {
	digits := 3
	switch size := math.Abs(v); {
	case size >= 100, v == 0:
		digits = 0
	case size >= 10:
		digits = 1
	case size >= 1:
		digits = 2
	}
	text := strconv.FormatFloat(v, 'f', digits, 64)
	if strings.Contains(text, ".") {
		text = strings.TrimRight(strings.TrimRight(text, "0"), ".")
	}
	if text == "-0" {
		text = "0"
	}
	whole, part, dot := strings.Cut(text, ".")
	for at := len(whole) - 3; at > len(whole)-len(strings.TrimLeft(whole, "-")); at -= 3 {
		whole = whole[:at] + "," + whole[at:]
	}
	if dot {
		whole += "." + part
	}
	return whole
}

// writeTable writes rows of the same length, the first of which is the head, as
// Markdown with columns under each other.
func writeTable(b *strings.Builder, rows [][]string) {
	columns := 0
	for _, row := range rows {
		columns = max(columns, len(row))
	}
	widths := make([]int, columns)
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell), 3)
		}
	}
	line := func(row []string, fill string) {
		for i, width := range widths {
			cell := ""
			if i < len(row) {
				cell = row[i]
			}
			fmt.Fprintf(b, "| %s%s ", cell, strings.Repeat(fill, width-utf8.RuneCountInString(cell)))
		}
		b.WriteString("|\n")
	}
	for i, row := range rows {
		line(row, " ")
		if i == 0 {
			line(slices.Repeat([]string{""}, columns), "-")
		}
	}
}
