package cluster_test

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

const root = "../../.."

// page returns the shell blocks of a section of docs/kubernetes.md.
func (c *cluster) page(b *testing.B, section string) []string {
	b.Helper()
	text, err := os.ReadFile(root + "/docs/kubernetes.md")
	must(b, err)
	_, rest, found := strings.Cut(string(text), "\n## "+section+"\n")
	if !found {
		b.Fatalf("the page has no section %q", section)
	}
	rest, _, _ = strings.Cut(rest, "\n## ")
	var blocks []string
	for _, match := range regexp.MustCompile("(?s)\n```sh\n(.*?)\n```\n").FindAllStringSubmatch(rest, -1) {
		blocks = append(blocks, match[1])
	}
	if len(blocks) == 0 {
		b.Fatalf("the section %q has no commands", section)
	}
	return blocks
}

// replace replaces pairs in a text, each of which has to be there.
func replace(b *testing.B, text string, pairs ...string) string {
	b.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(text, pairs[i]) {
			b.Fatalf("%q is not in\n%s", pairs[i], text)
		}
		text = strings.ReplaceAll(text, pairs[i], pairs[i+1])
	}
	return text
}

// shell runs commands in the root of the repository, and returns what they print.
func (c *cluster) shell(b *testing.B, commands string) string {
	b.Helper()
	return c.run(b, "bash", "-euc", "cd "+root+"\n"+commands)
}
