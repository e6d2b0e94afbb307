package main

import (
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode"
)

const root = "../.." // of the repository

// pages are the documents at the root and all below docs/, as paths from the root.
func pages(t testing.TB) []string {
	t.Helper()
	var found []string
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/*/*.md"} {
		matches, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range matches {
			path, err := filepath.Rel(root, match)
			if err != nil {
				t.Fatal(err)
			}
			found = append(found, filepath.ToSlash(path))
		}
	}
	if len(found) < 5 {
		t.Fatalf("found only %q", found)
	}
	return found
}

func page(t testing.TB, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(path)))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

var (
	fenced   = regexp.MustCompile("(?ms)^```(\\w*)\n(.*?)^```$")
	link     = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading  = regexp.MustCompile(`(?m)^#+ (.+)$`)
	linkText = regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`)
)

// anchors are the names by which GitHub links to the headings of a page.
func anchors(text string) map[string]bool {
	names := map[string]bool{}
	for _, h := range heading.FindAllStringSubmatch(fenced.ReplaceAllString(text, ""), -1) {
		title := strings.ToLower(linkText.ReplaceAllString(h[1], "$1"))
		names[strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case unicode.IsLetter(r) || unicode.IsDigit(r) || r == '-' || r == '_':
				return r
			}
			return -1
		}, title)] = true
	}
	return names
}

// Every link within the repository leads to something, its heading included.
func TestLinks(t *testing.T) {
	t.Parallel()
	anchorsOf := map[string]map[string]bool{} // by page
	for _, from := range pages(t) {
		for _, l := range link.FindAllStringSubmatch(fenced.ReplaceAllString(page(t, from), ""), -1) {
			if strings.Contains(l[1], "://") || strings.HasPrefix(l[1], "mailto:") {
				continue
			}
			path, anchor, _ := strings.Cut(l[1], "#")
			to := from
			if path != "" {
				to = filepath.ToSlash(filepath.Join(filepath.Dir(from), path))
			}
			if _, err := os.Stat(filepath.Join(root, filepath.FromSlash(to))); err != nil {
				t.Errorf("%s links to %s, which is not there", from, l[1])
				continue
			}
			if anchor == "" {
				continue
			}
			if anchorsOf[to] == nil {
				anchorsOf[to] = anchors(page(t, to))
			}
			if !anchorsOf[to][anchor] {
				t.Errorf("%s links to %s, and %s has no such heading", from, l[1], to)
			}
		}
	}
}

// programWord is how documents call the binary, in a pod too; helmRelease is where they
// name a release of the chart so.
var (
	programWord = regexp.MustCompile(`(?:^|[\s(])(?:go run \./services/carillon|bin/carillon|/?carillon) `)
	helmRelease = regexp.MustCompile(`helm \w+ carillon\b`)
)

// commandLines are the arguments of the carillon commands in a shell script.
func commandLines(script string) [][]string {
	var found [][]string
	for line := range strings.Lines(strings.ReplaceAll(script, "\\\n", " ")) {
		line = helmRelease.ReplaceAllString(line, "helm")
		for _, at := range programWord.FindAllStringIndex(line, -1) {
			found = append(found, shellWords(line[at[1]:]))
		}
	}
	return found
}

// shellWords splits a command where a shell would, as far as the documents go:
// quotes, and what ends a command.
func shellWords(text string) []string {
	var words []string
	var word strings.Builder
	quote, inWord := rune(0), false
	end := func() {
		if inWord {
			words = append(words, word.String())
		}
		word.Reset()
		inWord = false
	}
	for _, r := range text {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			quote, inWord = r, true
		case unicode.IsSpace(r):
			end()
		case strings.ContainsRune(")&|;>", r), r == '#' && !inWord:
			end()
			return words
		default:
			word.WriteRune(r)
			inWord = true
		}
	}
	end()
	return words
}

func TestShellWords(t *testing.T) {
	t.Parallel()
	script := "X=$(bin/carillon token --claim 'rooms=[\"a b\"]')\n" +
		"go run ./services/carillon dev   # serves\n" +
		"bin/carillon send a.b '{}' \\\n  --server x &\n" +
		"mycarillon no; echo\n" +
		"helm install carillon chart --wait && kubectl exec pod -- /carillon who a.b\n"
	got := commandLines(script)
	want := [][]string{{"token", "--claim", `rooms=["a b"]`}, {"dev"}, {"send", "a.b", "{}", "--server", "x"}, {"who", "a.b"}}
	if len(got) != len(want) {
		t.Fatalf("got %q", got)
	}
	for i := range want {
		if strings.Join(got[i], "\x00") != strings.Join(want[i], "\x00") {
			t.Errorf("got %q, want %q", got[i], want[i])
		}
	}
}

// Every command line in a document is one that the binary understands.
func TestDocumentedCommands(t *testing.T) {
	t.Parallel()
	tested := map[string]bool{}
	for _, path := range pages(t) {
		for _, block := range fenced.FindAllStringSubmatch(page(t, path), -1) {
			if block[1] != "sh" {
				continue
			}
			for _, arguments := range commandLines(block[2]) {
				command := strings.Join(arguments, " ")
				if tested[command] {
					continue
				}
				tested[command] = true
				// With --help the command is parsed, and not run.
				if err := run(t.Context(), append(arguments, "--help"), noEnvironment, io.Discard, io.Discard); err != nil {
					t.Errorf("%s has carillon %s: %v", path, command, err)
				}
			}
		}
	}
	if len(tested) < 8 {
		t.Errorf("found only %d commands", len(tested))
	}
}

// The configuration of the README is one with which each role starts.
func TestDocumentedConfiguration(t *testing.T) {
	t.Parallel()
	checked := false
	for _, block := range fenced.FindAllStringSubmatch(page(t, "README.md"), -1) {
		if block[1] != "yaml" {
			continue
		}
		checked = true
		file := filepath.Join(t.TempDir(), "carillon.yaml")
		if err := os.WriteFile(file, []byte(block[2]), 0o600); err != nil {
			t.Fatal(err)
		}
		environ := map[string]string{
			"CLIENTS_SECRET": strings.Repeat("c", 32), "CALLERS_SECRET": strings.Repeat("s", 32), "ROLES_SECRET": strings.Repeat("r", 32),
		}
		for _, role := range []string{"serve", "edge", "presence", "publish"} {
			var stdout strings.Builder
			err := run(t.Context(), []string{"config", "check", "--for", role, "--config", file}, func(name string) string { return environ[name] }, &stdout, io.Discard)
			if err != nil || !strings.HasPrefix(stdout.String(), "OK\n") { // warnings may follow
				t.Errorf("for %s: %v\n%s", role, err, stdout.String())
			}
		}
	}
	if !checked {
		t.Error("README.md has no configuration")
	}
}

var testName = regexp.MustCompile("`((?:Test|Fuzz|Benchmark)[A-Za-z0-9_]+)`")

// What docs/security.md gives as a proof is there.
func TestProofsAreThere(t *testing.T) {
	t.Parallel()
	var source strings.Builder
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") || entry.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		source.Write(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	names := testName.FindAllStringSubmatch(page(t, "docs/security.md"), -1)
	if len(names) < 100 {
		t.Fatalf("the page names %d tests", len(names))
	}
	for _, name := range names {
		if !strings.Contains(source.String(), "func "+name[1]+"(") {
			t.Errorf("there is no %s", name[1])
		}
	}
}
