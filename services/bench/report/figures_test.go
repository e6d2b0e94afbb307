package report_test

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestFiguresAreWhatTheRunHasAnythingFor(t *testing.T) {
	figures := sample().Figures()
	want := []string{"fanout.svg", "growth-recipients-cpu_us_per_delivery.svg", "percentiles-fanout-rate.svg", "publish.svg", "soak-MiB.svg"}
	if got := slices.Sorted(maps.Keys(figures)); !slices.Equal(got, want) {
		t.Fatalf("figures: %v, want %v", got, want)
	}
	for name, svg := range figures {
		wellFormed(t, name, svg)
	}
	for _, text := range []string{">carillon<", ">socketio<", "CPU µs a delivery", ">6.9<", ">13.8<"} {
		if !bytes.Contains(figures["fanout.svg"], []byte(text)) {
			t.Errorf("the bars have no %s:\n%s", text, figures["fanout.svg"])
		}
	}
	percentiles := string(figures["percentiles-fanout-rate.svg"])
	if strings.Count(percentiles, "<polyline") != 2 || !strings.Contains(percentiles, ">p99.9<") {
		t.Errorf("a line for each of two systems, over percentiles:\n%s", percentiles)
	}
}

func wellFormed(t *testing.T, name string, svg []byte) {
	t.Helper()
	for decoder := xml.NewDecoder(bytes.NewReader(svg)); ; {
		if _, err := decoder.Token(); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatalf("%s: %v\n%s", name, err, svg)
		}
	}
}

func TestDrawWritesWhatPicturesShow(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "plots")
	if err := sample().Draw(dir); err != nil {
		t.Fatal(err)
	}
	pictures := sample().Pictures("plots")
	files, err := os.ReadDir(dir)
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		if !strings.Contains(pictures, "](plots/"+file.Name()+")") {
			t.Errorf("%s is not shown in\n%s", file.Name(), pictures)
		}
	}
}
