package e2e_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"
)

func testHealth(t *testing.T, s *system) {
	for _, c := range []struct {
		servers []string
		service string
	}{
		{s.publishers, "carillon.publish.v1.PublishService"},
		{s.publishers, "carillon.control.v1.ControlService"},
		{s.presences, "carillon.presence.v1.PresenceService"},
		{s.presences, "carillon.authz.v1.AuthorizationService"},
		{s.presences, "carillon.presence.v1.PresenceReportService"},
		{slices.Concat(s.publishers, s.presences), ""},
	} {
		for _, server := range c.servers {
			answer := output(t, program(t, grpcurlProgram), "-plaintext", "-d", encode(t, map[string]string{"service": c.service}),
				server, "grpc.health.v1.Health/Check")
			if !strings.Contains(answer, `"SERVING"`) {
				t.Errorf("health of %q: %s", c.service, answer)
			}
		}
	}
	for _, p := range s.ops {
		if status, text := p.get(t, "/healthz"); status != http.StatusOK || text != "ok\n" {
			t.Errorf("%s: /healthz: %d %q", p.name, status, text)
		}
		if status, _ := p.get(t, "/debug/pprof/"); status != http.StatusNotFound {
			t.Errorf("%s: profiles are served unasked: %d", p.name, status)
		}
	}
}

func testReflection(t *testing.T, s *system) {
	const common = "grpc.health.v1.Health\ngrpc.reflection.v1.ServerReflection\ngrpc.reflection.v1alpha.ServerReflection\n"
	for _, server := range s.publishers {
		if got := output(t, program(t, grpcurlProgram), "-plaintext", server, "list"); got != "carillon.control.v1.ControlService\ncarillon.publish.v1.HistoryService\ncarillon.publish.v1.PublishService\n"+common {
			t.Errorf("services of publish:\n%s", got)
		}
	}
	const presence = "carillon.authz.v1.AuthorizationService\ncarillon.presence.v1.PresenceReportService\ncarillon.presence.v1.PresenceService\n"
	for _, server := range s.presences {
		if got := output(t, program(t, grpcurlProgram), "-plaintext", server, "list"); got != presence+common {
			t.Errorf("services of presence:\n%s", got)
		}
	}
	described := output(t, program(t, grpcurlProgram), "-plaintext", first(s.publishers), "describe", "carillon.publish.v1.PublishRequest")
	for _, field := range []string{"string channel = 1", "string user_id = 2", "string json = 3", "bytes data = 4", "string message_id = 7"} {
		if !strings.Contains(described, field) {
			t.Errorf("PublishRequest is described without %q:\n%s", field, described)
		}
	}
}

// Neither kind of token is good where the other is.
func testKindsApart(t *testing.T, s *system) {
	user, service := s.token(t, "user", "quentin"), s.token(t, "service", s.caller)
	for _, c := range []struct{ server, method, token, want string }{
		{first(s.publishers), publishMethod, user, "Unauthenticated"},
		{last(s.presences), "carillon.presence.v1.PresenceService/ListMembers", user, "Unauthenticated"},
		{last(s.presences), "carillon.authz.v1.AuthorizationService/CheckPermissions", service, "Unauthenticated"},
		{last(s.presences), "carillon.presence.v1.PresenceReportService/Report", service, "Unauthenticated"},
	} {
		_, stderr, status := execute(t, nil, program(t, grpcurlProgram), "-plaintext", "-H", "authorization: Bearer "+c.token, c.server, c.method)
		if status == 0 || !strings.Contains(stderr, "Code: "+c.want) {
			t.Errorf("%s: exit %d: %s", c.method, status, stderr)
		}
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+first(s.edges)+"/v1/ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{
		"Authorization": "Bearer " + service, "Connection": "Upgrade", "Upgrade": "websocket",
		"Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
	} {
		request.Header.Set(name, value)
	}
	response, err := httpClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusUnauthorized {
		t.Errorf("a service's token on an edge: %s", response.Status)
	}
}
