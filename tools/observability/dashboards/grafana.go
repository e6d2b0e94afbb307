package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

// dashboard is a page of rows of panels.
type dashboard struct {
	uid, title, description string
	servers                 bool // it is about NATS servers, not about processes of Carillon
	rows                    []row
}

// row is a heading and the panels under it, which share the width.
type row struct {
	title  string
	height int
	panels []panel
}

// panel shows the values of its queries over time, or with now their latest.
type panel struct {
	title, description string
	unit               string
	now                bool
	stacked            bool
	most               int // the axis goes to that at least; 0: to what there is
	queries            []query
}

// query is PromQL in which $of stands for what the variables of the dashboard choose.
type query struct{ legend, expr string }

// Units, as Grafana names them.
const (
	count     = "short"
	perSecond = "cps"
	seconds   = "s"
	bytesUnit = "bytes"
	byteRate  = "Bps"
	share     = "percentunit"
	yesNo     = "bool_yes_no"
)

const (
	width   = 24 // of a page, in Grafana's columns
	chooses = `job=~"$job", instance=~"$instance"`
	// choosesServers has a variable of its own: what was chosen in another dashboard comes along.
	choosesServers = `instance=~"$server"`
)

type object = map[string]any

var source = object{"type": "prometheus", "uid": "${datasource}"}

// encode is the dashboard as Grafana reads it, with its keys in order, so that a change
// of a panel is one of its lines.
func (d dashboard) encode() ([]byte, error) {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", " ")
	err := encoder.Encode(object{
		"uid": d.uid, "title": d.title, "description": d.description, "tags": []string{"carillon"},
		"editable": true, "graphTooltip": 1, "schemaVersion": 39, "timezone": "", "refresh": "30s",
		"time":        object{"from": "now-1h", "to": "now"},
		"annotations": object{"list": []object{alertsAnnotation()}},
		"templating":  object{"list": d.variables()},
		"links": []object{{
			"title": "Carillon", "type": "dashboards", "asDropdown": true, "includeVars": true, "keepTime": true, "tags": []string{"carillon"},
		}},
		"panels": d.panels(),
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.uid, err)
	}
	return out.Bytes(), nil
}

// alertsAnnotation marks in each graph when an alert fired.
func alertsAnnotation() object {
	return object{
		"name": "Alerts", "enable": true, "iconColor": "red", "datasource": source,
		"expr": `ALERTS{alertname=~"Carillon.*", alertstate="firing"}`, "step": "30s",
		"titleFormat": "{{alertname}}", "textFormat": "{{instance}}", "tagKeys": "severity",
	}
}

func (d dashboard) variables() []object {
	values := func(name, label, query string) object {
		return object{
			"name": name, "label": label, "type": "query", "datasource": source, "definition": query,
			"query": object{"query": query, "refId": name}, "refresh": 2, "sort": 1,
			"multi": true, "includeAll": true, "allValue": ".+", "current": object{"text": "All", "value": "$__all"},
		}
	}
	prometheus := object{"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
	if d.servers {
		return []object{prometheus, values("server", "Server", "label_values(nats_varz_start, instance)")}
	}
	return []object{
		prometheus,
		values("job", "Job", "label_values(carillon_build_info, job)"),
		values("instance", "Instance", `label_values(carillon_build_info{job=~"$job"}, instance)`),
	}
}

func (d dashboard) panels() []object {
	var all []object
	y := 0
	add := func(o object, x, w, h int) {
		o["id"] = len(all) + 1
		o["gridPos"] = object{"x": x, "y": y, "w": w, "h": h}
		all = append(all, o)
	}
	for _, r := range d.rows {
		add(object{"type": "row", "title": r.title, "collapsed": false, "panels": []object{}}, 0, width, 1)
		y++
		each := width / len(r.panels)
		for i, p := range r.panels {
			add(p.encode(d.servers), i*each, each, r.height)
		}
		y += r.height
	}
	return all
}

func (p panel) encode(servers bool) object {
	of := chooses
	if servers {
		of = choosesServers
	}
	var targets []object
	for i, q := range p.queries {
		expr := strings.ReplaceAll(q.expr, "$of", of)
		targets = append(targets, object{
			"refId": string(rune('A' + i)), "expr": expr, "legendFormat": q.legend, "datasource": source,
			"exemplar": strings.Contains(expr, "_bucket{"), "instant": p.now, "range": !p.now,
		})
	}
	o := object{"title": p.title, "description": p.description, "datasource": source, "targets": targets}
	defaults := object{"unit": p.unit, "min": 0}
	if p.most > 0 {
		defaults["max"] = p.most
	}
	if p.now {
		o["type"] = "stat"
		o["options"] = object{"reduceOptions": object{"calcs": []string{"lastNotNull"}}, "textMode": "value", "colorMode": "none", "graphMode": "none"}
	} else {
		o["type"] = "timeseries"
		o["options"] = object{
			"legend":  object{"displayMode": "list", "placement": "bottom", "showLegend": true},
			"tooltip": object{"mode": "multi", "sort": "desc"},
		}
		custom := object{"lineWidth": 1, "fillOpacity": 8, "showPoints": "never", "spanNulls": false}
		if p.stacked {
			custom["stacking"], custom["fillOpacity"] = object{"mode": "normal"}, 30
		}
		defaults["custom"] = custom
	}
	o["fieldConfig"] = object{"defaults": defaults, "overrides": []object{}}
	return o
}

// rateOf is what a counter counts a second.
func rateOf(metric, by string) string {
	return "sum by (" + by + ") (rate(" + metric + "{$of}[$__rate_interval]))"
}

// sumOf is a gauge, summed up.
func sumOf(metric, by string) string { return "sum by (" + by + ") (" + metric + "{$of})" }

// quantiles are the median and the time that one in a hundred takes longer than, of a
// histogram.
func quantiles(metric, by, legend string) []query {
	var all []query
	for _, q := range []struct{ text, name string }{{"0.5", "median"}, {"0.99", "99 %"}} {
		labels, name := "le", q.name
		if by != "" {
			labels, name = "le, "+by, legend+" "+q.name
		}
		all = append(all, query{name, "histogram_quantile(" + q.text + ", sum by (" + labels + ") (rate(" + metric + "_bucket{$of}[$__rate_interval])))"})
	}
	return all
}
