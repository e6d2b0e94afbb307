//go:build race

package e2e_test

// raceFlag makes the binary look for races where its tests do.
var raceFlag = []string{"-race"}
