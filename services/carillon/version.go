package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// What the linker is told where the build sees no repository: in a container, and for a
// release (deployments/docker/tree).
var linkedVersion, linkedRevision string

type versionCommand struct{}

// Run prints one line: version, revision, Go and platform.
func (versionCommand) Run(env environment) error {
	info, _ := debug.ReadBuildInfo() // nil in a binary without modules
	_, err := fmt.Fprintln(env.stdout, versionLine(info))
	return err
}

func versionLine(info *debug.BuildInfo) string {
	version, revision := versionOf(info)
	return fmt.Sprintf("carillon %s, revision %s, %s %s/%s", version, revision, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

// runningVersion is that of this binary.
func runningVersion() string {
	info, _ := debug.ReadBuildInfo() // nil in a binary without modules
	version, _ := versionOf(info)
	return version
}

// versionOf reads what the linker was told, else what the build has noted; info may be nil.
func versionOf(info *debug.BuildInfo) (version, revision string) {
	if linkedVersion != "" {
		return linkedVersion, linkedRevision
	}
	version, revision = "unknown", "unknown"
	modified := ""
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
	return version, revision + modified
}
