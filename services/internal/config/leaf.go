package config

import (
	"encoding"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// set parses text into a leaf and checks it as the field's tags say; the error has no
// path and leaves the leaf as it was.
func set(leaf reflect.Value, field reflect.StructField, text string) error {
	if leaf.Kind() == reflect.Slice {
		return setList(leaf, field, splitList(text))
	}
	if !utf8.ValidString(text) {
		return errors.New("is not UTF-8")
	}
	parsed := reflect.New(leaf.Type()).Elem()
	if err := parse(parsed, text); err != nil {
		return err
	}
	if err := checkBounds(parsed, field); err != nil {
		return err
	}
	if enum, ok := field.Tag.Lookup("enum"); ok && !slices.Contains(strings.Split(enum, ","), parsed.String()) {
		return fmt.Errorf("%.100q is not one of %s", text, strings.ReplaceAll(enum, ",", ", "))
	}
	if parsed.Kind() == reflect.String {
		if err := check(field.Tag.Get("check"), parsed.String()); err != nil {
			return err
		}
	}
	leaf.Set(parsed)
	return nil
}

// setList is set for a list of texts.
func setList(leaf reflect.Value, field reflect.StructField, texts []string) error {
	for i, text := range texts {
		if !utf8.ValidString(text) {
			return errors.New("is not UTF-8")
		}
		if err := check(field.Tag.Get("check"), text); err != nil {
			return err
		}
		if field.Tag.Get("check") != "" && slices.Contains(texts[:i], text) {
			return fmt.Errorf("%.100q stands twice", text)
		}
	}
	leaf.Set(reflect.ValueOf(texts))
	return nil
}

// splitList splits at commas and drops what is empty.
func splitList(text string) []string {
	var texts []string
	for part := range strings.SplitSeq(text, ",") {
		if part = strings.TrimSpace(part); part != "" {
			texts = append(texts, part)
		}
	}
	return texts
}

func parse(leaf reflect.Value, text string) error {
	switch v := leaf.Addr().Interface().(type) {
	case encoding.TextUnmarshaler:
		return v.UnmarshalText([]byte(text))
	case *time.Duration:
		d, err := time.ParseDuration(text)
		if err != nil {
			return fmt.Errorf("%.100q is not a duration such as 500ms, 30s or 24h", text)
		}
		*v = d
	case *bool:
		if text != "true" && text != "false" {
			return fmt.Errorf("%.100q is not true or false", text)
		}
		*v = text == "true"
	case *int:
		n, err := strconv.Atoi(text)
		if err != nil {
			return fmt.Errorf("%.100q is not a whole number", text)
		}
		*v = n
	default:
		leaf.SetString(text)
	}
	return nil
}

// format is the text that parse reads.
func format(leaf reflect.Value) string {
	if list, ok := reflect.TypeAssert[[]string](leaf); ok {
		return strings.Join(list, ",")
	}
	return fmt.Sprint(leaf.Interface())
}

func checkBounds(leaf reflect.Value, field reflect.StructField) error {
	for _, name := range []string{"min", "max"} {
		text, ok := field.Tag.Lookup(name)
		if !ok {
			continue
		}
		bound := reflect.New(leaf.Type()).Elem()
		if err := parse(bound, text); err != nil {
			return fmt.Errorf("tag %s: %w", name, err)
		}
		switch {
		case name == "min" && leaf.Int() < bound.Int():
			return fmt.Errorf("%s is less than %s", format(leaf), text)
		case name == "max" && leaf.Int() > bound.Int():
			return fmt.Errorf("%s is more than %s", format(leaf), text)
		}
	}
	return nil
}

// check checks the syntax of a text by the name of a check tag.
func check(name, text string) error {
	switch name {
	case "required":
		if text == "" {
			return errors.New("is required")
		}
	case "listen": // host:port to listen on; an empty host is every address
		if _, port, err := net.SplitHostPort(text); err != nil || !isPort(port, 0) {
			return fmt.Errorf("%.100q is not host:port or :port, port being 0 to 65535", text)
		}
	case "address": // host:port to dial
		if host, port, err := net.SplitHostPort(text); err != nil || host == "" || !isPort(port, 1) {
			return fmt.Errorf("%.100q is not host:port, port being 1 to 65535", text)
		}
	case "https": // http only on this machine
		if u, err := url.Parse(text); text != "" && (err != nil || u.Hostname() == "" || u.User != nil ||
			u.Scheme != "https" && (u.Scheme != "http" || !isLoopback(net.JoinHostPort(u.Hostname(), "0")))) {
			return errors.New("is not an address https://host/path, or http://localhost:port/path")
		}
	case "otlp":
		if u, err := url.Parse(text); text != "" && (err != nil || u.Hostname() == "" || u.User != nil || u.Scheme != "http" && u.Scheme != "https") {
			return errors.New("is not an address such as http://localhost:4317 or https://collector.example:4317")
		}
	case "trace":
		if u, err := url.Parse(text); text != "" && (err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" || !strings.Contains(text, "{trace}")) {
			return fmt.Errorf("%.100q is not an address with {trace} in it such as http://localhost:16686/trace/{trace}", text)
		}
	case "origin": // as RFC 6454, 6.2 serialises it
		if u, err := url.Parse(text); err != nil || u.Hostname() == "" || u.Scheme+"://"+u.Host != text || text != strings.ToLower(text) {
			return fmt.Errorf("%.100q is not an origin such as https://app.example or http://localhost:3000, in lower case and without a path", text)
		}
	case "cidr":
		_, errPrefix := netip.ParsePrefix(text)
		if _, err := netip.ParseAddr(text); err != nil && errPrefix != nil {
			return fmt.Errorf("%.100q is not an address such as 10.1.2.3 or a network such as 10.0.0.0/8", text)
		}
	case "nats":
		if text != "" && len(splitList(text)) == 0 {
			return errors.New("names no server")
		}
		for _, server := range splitList(text) {
			if !isNATS(server) { // not shown: it may hold a password
				return errors.New("is not a NATS address such as nats://host:4222, or several joined by commas")
			}
		}
	}
	return nil
}

func isPort(text string, least uint64) bool {
	port, err := strconv.ParseUint(text, 10, 16)
	return err == nil && port >= least
}

func isNATS(server string) bool {
	if !strings.Contains(server, "://") {
		server = "nats://" + server
	}
	u, err := url.Parse(server)
	return err == nil && slices.Contains([]string{"nats", "tls", "ws", "wss"}, u.Scheme) && u.Hostname() != ""
}
