package config

import (
	"fmt"
	"strings"
)

// Problems is everything that is wrong with a configuration, a line each: the path of
// the option, what is wrong, and where it was set. No line shows a secret.
type Problems []string

// Error joins the lines.
func (p Problems) Error() string { return strings.Join(p, "\n") }

// Places says where each path was set: "carillon.yaml:12", an environment variable or a
// flag.
type Places map[string]string

// Of says where a path such as "namespaces[0].rules[1].publish" was set, or what it lies
// in; empty for a default.
func (p Places) Of(path string) string {
	for path != "" {
		if place, ok := p[path]; ok {
			return place
		}
		path = path[:max(strings.LastIndexAny(path, ".["), 0)]
	}
	return ""
}

// Line is a line "path: message" with the place of the path.
func (p Places) Line(text string) string {
	path, message, ok := strings.Cut(text, ": ")
	if !ok {
		return line("", text, "")
	}
	return line(path, message, p.Of(path))
}

// report collects problems while a configuration is loaded.
type report struct {
	lines  []string
	places Places
	// faulty holds the paths whose value could not be taken: what follows from that is
	// no problem of its own.
	faulty map[string]bool
}

func newReport() *report { return &report{places: Places{}, faulty: map[string]bool{}} }

// refuse adds a problem with a value that was not taken.
func (r *report) refuse(path, place, format string, args ...any) {
	r.faulty[path] = true
	r.lines = append(r.lines, line(path, fmt.Sprintf(format, args...), place))
}

// add adds a problem with what was taken, unless a value of it was refused.
func (r *report) add(path, format string, args ...any) {
	for faulty := range r.faulty {
		if within(path, faulty) || within(faulty, path) {
			return
		}
	}
	r.lines = append(r.lines, line(path, fmt.Sprintf(format, args...), r.places.Of(path)))
}

// within tells whether a path is another or lies below it. The entries of a list do
// not lie below the list, which has problems of its own.
func within(path, other string) bool {
	rest, ok := strings.CutPrefix(path, other)
	return ok && (rest == "" || rest[0] == '.')
}

// addAll adds lines "path: message" as others report them, below the path prefix.
func (r *report) addAll(prefix string, lines []string) {
	for _, text := range lines {
		key, message, ok := strings.Cut(text, ": ")
		switch {
		case !ok || strings.ContainsAny(key, " \""): // a sentence about the whole
			if !r.faulty[prefix] {
				r.lines = append(r.lines, line(prefix, text, r.places.Of(prefix)))
			}
		case prefix == "" || strings.HasPrefix(key, "["):
			r.add(prefix+key, "%s", message)
		default:
			r.add(prefix+"."+key, "%s", message)
		}
	}
}

func (r *report) err() error {
	if len(r.lines) == 0 {
		return nil
	}
	return Problems(r.lines)
}

func line(path, message, place string) string {
	text := message
	if path != "" {
		text = path + ": " + message
	}
	if place != "" {
		text += " (" + place + ")"
	}
	return strings.NewReplacer("\n", " ", "\r", " ").Replace(text)
}

// didYouMean is the known key that a person most likely meant; empty if none is near.
func didYouMean(key string, known []string) string {
	bare := strings.NewReplacer("-", "", "_", "", ".", "")
	best, least := "", len(key)/3+1
	for _, candidate := range known {
		if strings.EqualFold(bare.Replace(key), bare.Replace(candidate)) {
			return candidate
		}
		if d := distance(key, candidate); d <= least && d < len(candidate) && (best == "" || d < distance(key, best)) {
			best = candidate
		}
	}
	return best
}

// distance is the Levenshtein distance of two texts, of at most 64 bytes each; longer
// ones are far apart.
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return max(len(a), len(b))
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			substituted := diagonal
			if a[i] != b[j] {
				substituted++
			}
			diagonal = row[j+1]
			row[j+1] = min(substituted, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
