package plot_test

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"

	"github.com/carillon-rt/carillon/services/bench/plot"
)

func TestSVGIsWellFormedWhateverIsDrawn(t *testing.T) {
	line := func(points ...plot.Point) []plot.Series { return []plot.Series{{Name: "a <b> & c", Points: points}} }
	drawn := map[string][]byte{
		"no bars":     plot.Bars{}.SVG(),
		"a bar of 0":  plot.Bars{Title: "a & b", Groups: []plot.Group{{Name: "<g>", Bars: []plot.Bar{{Name: `"x"`}}}}}.SVG(),
		"no lines":    plot.Lines{X: plot.Axis{Log: true}}.SVG(),
		"one point":   plot.Lines{Series: line(plot.Point{0, 0})}.SVG(),
		"a level":     plot.Lines{Y: plot.Axis{Log: true}, Series: line(plot.Point{1, 10}, plot.Point{2, 10})}.SVG(),
		"below zero":  plot.Lines{Series: line(plot.Point{-1, -5}, plot.Point{1, 5})}.SVG(),
		"zero on log": plot.Lines{X: plot.Axis{Log: true}, Y: plot.Axis{Log: true}, Series: line(plot.Point{0, 0}, plot.Point{10, 10}, plot.Point{100, 3})}.SVG(),
	}
	for name, svg := range drawn {
		for decoder := xml.NewDecoder(bytes.NewReader(svg)); ; {
			if _, err := decoder.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s: %v\n%s", name, err, svg)
			}
		}
		for _, wrong := range []string{"NaN", "Inf"} {
			if bytes.Contains(svg, []byte(wrong)) {
				t.Errorf("%s has %s:\n%s", name, wrong, svg)
			}
		}
	}
}

func TestALogarithmicAxisHasEqualStepsForEqualRatios(t *testing.T) {
	var points []plot.Point
	for _, x := range []float64{1, 10, 100, 1000} {
		points = append(points, plot.Point{x, x})
	}
	svg := string(plot.Lines{X: plot.Axis{Log: true}, Y: plot.Axis{Log: true}, Series: []plot.Series{{Points: points}}}.SVG())
	_, after, _ := strings.Cut(svg, `<polyline points="`)
	text, _, _ := strings.Cut(after, `"`)
	var at [4][2]float64
	for i, pair := range strings.Fields(text) {
		if _, err := fmt.Sscanf(pair, "%f,%f", &at[i][0], &at[i][1]); err != nil {
			t.Fatal(pair, err)
		}
	}
	for i := range 2 {
		stepX, nextX := at[i+1][0]-at[i][0], at[i+2][0]-at[i+1][0]
		stepY, nextY := at[i+1][1]-at[i][1], at[i+2][1]-at[i+1][1]
		if stepX <= 0 || stepY >= 0 || math.Abs(stepX-nextX) > 0.2 || math.Abs(stepY-nextY) > 0.2 {
			t.Errorf("places %v: steps %.1f and %.1f to the right, %.1f and %.1f up", at, stepX, nextX, -stepY, -nextY)
		}
	}
	for _, tick := range []string{">1<", ">10<", ">100<", ">1,000<"} {
		if strings.Count(svg, tick) != 2 {
			t.Errorf("tick %s is not on both axes:\n%s", tick, svg)
		}
	}
}
