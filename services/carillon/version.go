package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

type versionCommand struct{}

// Run prints one line: version, revision, Go and platform.
func (versionCommand) Run(env environment) error {
	info, _ := debug.ReadBuildInfo() // nil in a binary without modules
	_, err := fmt.Fprintln(env.stdout, versionLine(info))
	return err
}

func versionLine(info *debug.BuildInfo) string {
	version, revision, modified := "unknown", "unknown", ""
	if info != nil {
		if info.Main.Version != "" {
			version = info.Main.Version
		}
		for _, setting := range info.Settings {
			switch {
			case setting.Key == "vcs.revision":
				revision = setting.Value
			case setting.Key == "vcs.modified" && setting.Value == "true":
				modified = " (modified)"
			}
		}
	}
	return fmt.Sprintf("carillon %s, revision %s%s, %s %s/%s", version, revision, modified, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
