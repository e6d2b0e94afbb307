package report

import (
	"fmt"
	"os"
	"strings"
)

// Insert replaces what stands between the markers of a name in a Markdown file, which
// are comments on lines of their own: <!-- begin name --> and <!-- end name -->.
func Insert(file, name, text string) error {
	old, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	begin, end := "<!-- begin "+name+" -->\n", "<!-- end "+name+" -->\n"
	before, rest, ok1 := strings.Cut(string(old), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok1 || !ok2 {
		return fmt.Errorf("%s: no lines %q and %q after it", file, strings.TrimSpace(begin), strings.TrimSpace(end))
	}
	made := before + begin + "\n" + strings.TrimSpace(text) + "\n\n" + end + after
	if made == string(old) {
		return nil
	}
	return os.WriteFile(file, []byte(made), 0o644) //nolint:gosec // it is for everybody
}
