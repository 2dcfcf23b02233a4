package mirrorconfig

import (
	"encoding/base64"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/internal/disk"
	"github.com/regkeeper/regkeeper/problem"
)

// ContainerdPath is where a registry's hosts.toml stands below the folder that
// config_path names, by default /etc/containerd/certs.d (containerd's
// docs/hosts.md). containerd reads it at each pull.
func ContainerdPath(host credential.Host) string { return string(host) + "/hosts.toml" }

// serverOf is the registry's own address, which containerd asks last.
func serverOf(host credential.Host) string {
	if host == credential.DockerHub {
		return "https://registry-1.docker.io"
	}
	return "https://" + string(host)
}

// Containerd adds a mirror to a hosts.toml, before the mirrors that are in it. A
// login becomes a header: the file then holds a secret and is to be readable by
// root alone. containerd sends that header to the mirror only. Without a login, one
// that is there stays.
//
// The error is of kind [problem.Config], or [problem.Damaged] if the document
// cannot be read by containerd's own parser, or if what comes of it would say
// anything else otherwise than before.
func Containerd(text []byte, m Mirror) ([]byte, error) {
	table, keys, err := m.table()
	if err != nil {
		return nil, err
	}
	before, err := parseHosts(text)
	if err != nil {
		return nil, err
	}
	hosts := hostsOf(before)
	ours, _ := hosts[table].(map[string]any)
	if head, ok := ours["header"].(map[string]any); ok {
		_, has := head["Authorization"].(string)
		if !has || len(head) > 1 {
			return nil, entangled(m)
		}
		if m.Login == nil {
			keys["header"] = head
		}
	}
	merged := maps.Clone(ours)
	if merged == nil {
		merged = map[string]any{}
	}
	maps.Copy(merged, keys)
	if reflect.DeepEqual(any(ours), any(merged)) {
		return text, nil
	}
	want := maps.Clone(before)
	if _, has := want["server"]; !has {
		want["server"] = serverOf(m.Host)
	}
	wantHosts := maps.Clone(hosts)
	wantHosts[table] = merged
	want["host"] = wantHosts

	lines := strings.SplitAfter(string(text), "\n")
	lines, kept := cut(lines, table)
	if last := len(lines) - 1; lines[last] != "" && !strings.HasSuffix(lines[last], "\n") {
		lines[last] += "\n"
	}
	block := header(table) + "\n" + fields(keys, "  ") + strings.Join(kept, "")
	if head, ok := keys["header"].(map[string]any); ok {
		block += "  " + header(table, "header") + "\n" + fields(head, "    ")
	}
	at := firstHost(lines)
	if at < 0 {
		at = len(lines)
		block = "\n" + block
	} else {
		block += "\n"
	}
	if strings.TrimSpace(strings.Join(lines[:at], "")) == "" {
		block = strings.TrimPrefix(block, "\n")
	}
	next := strings.Join(lines[:at], "") + block + strings.Join(lines[at:], "")
	if _, has := before["server"]; !has {
		next = fmt.Sprintf("server = %q\n\n", serverOf(m.Host)) + strings.TrimLeft(next, "\n")
	}
	return verified(next, want, m)
}

// RemoveContainerd takes a mirror out of a hosts.toml. What is left of one that
// held nothing else is empty: the file is to be deleted then.
func RemoveContainerd(text []byte, m Mirror) ([]byte, error) {
	table, _, err := m.table()
	if err != nil {
		return nil, err
	}
	before, err := parseHosts(text)
	if err != nil {
		return nil, err
	}
	hosts := hostsOf(before)
	if _, has := hosts[table]; !has {
		return text, nil
	}
	want := maps.Clone(before)
	wantHosts := maps.Clone(hosts)
	delete(wantHosts, table)
	want["host"] = wantHosts
	if len(wantHosts) == 0 {
		delete(want, "host")
	}
	if len(want) == 0 || len(want) == 1 && want["server"] == serverOf(m.Host) {
		return nil, nil
	}
	lines, _ := cut(strings.SplitAfter(string(text), "\n"), table)
	return verified(strings.Join(lines, ""), want, m)
}

// table is the name of the mirror's table, and what is to stand in it.
func (m Mirror) table() (string, map[string]any, error) {
	u, err := m.check()
	if err != nil {
		return "", nil, err
	}
	keys := map[string]any{"capabilities": []any{"pull", "resolve"}}
	name := u.String()
	if m.Prefix != "" {
		name += "/v2/" + m.Prefix
		keys["override_path"] = true
	}
	if m.Login != nil {
		pair := m.Login.Username + ":" + m.Login.Secret.Reveal()
		keys["header"] = map[string]any{"Authorization": "Basic " + base64.StdEncoding.EncodeToString([]byte(pair))}
	}
	return name, keys, nil
}

// fields writes keys that are no tables, the lists first.
func fields(keys map[string]any, indent string) string {
	var b strings.Builder
	for _, key := range []string{"capabilities", "override_path", "Authorization"} {
		switch value := keys[key].(type) {
		case []any:
			fmt.Fprintf(&b, "%s%s = [\"pull\", \"resolve\"]\n", indent, key)
		case bool:
			fmt.Fprintf(&b, "%s%s = %t\n", indent, key, value)
		case string:
			fmt.Fprintf(&b, "%s%s = %q\n", indent, key, value)
		}
	}
	return b.String()
}

func header(names ...string) string {
	text := `[host."` + names[0] + `"`
	for _, name := range names[1:] {
		text += "." + name
	}
	return text + "]"
}

func parseHosts(text []byte) (map[string]any, error) {
	doc := map[string]any{}
	if err := toml.Unmarshal(text, &doc); err != nil {
		// The parser's words may quote a secret.
		return nil, problem.New(problem.Damaged, disk.DamagedHint, "hosts.toml is no TOML")
	}
	if strings.Contains(string(text), `"""`) || strings.Contains(string(text), `'''`) {
		return nil, problem.New(problem.Damaged, "write texts on one line", "hosts.toml has a text of several lines")
	}
	return doc, nil
}

func hostsOf(doc map[string]any) map[string]any {
	hosts, _ := doc["host"].(map[string]any)
	if hosts == nil {
		return map[string]any{}
	}
	return hosts
}

// verified is the text if it says what is wanted.
func verified(text string, want map[string]any, m Mirror) ([]byte, error) {
	got := map[string]any{}
	if err := toml.Unmarshal([]byte(text), &got); err != nil || !reflect.DeepEqual(got, want) {
		return nil, entangled(m)
	}
	return []byte(text), nil
}

func entangled(m Mirror) error {
	return problem.New(problem.Damaged, `write each mirror as a table of its own, [host."https://..."]`,
		"hosts.toml of %s cannot be changed without changing something else", m.Host)
}

var (
	tableLine = regexp.MustCompile(`^\s*\[.*\]\s*(#.*)?$`)
	hostLine  = regexp.MustCompile(`^\s*\[\s*host\s*\.\s*(?:"([^"]*)"|'([^']*)')\s*(?:\.\s*([A-Za-z_-]+)\s*)?\]\s*(#.*)?$`)
	ownedLine = regexp.MustCompile(`^\s*(capabilities|override_path)\s*=.*$`)
)

// cut takes the lines of a mirror's tables away, and returns those of its own
// fields that are not for us to write. Where these rules do not hold, as for a
// list over several lines, what comes of it is not what is wanted.
func cut(lines []string, table string) (rest, kept []string) {
	inside, sub := false, ""
	for _, line := range lines {
		bare := strings.TrimRight(line, "\r\n")
		if tableLine.MatchString(bare) {
			found := hostLine.FindStringSubmatch(bare)
			inside = found != nil && found[1]+found[2] == table
			if inside {
				sub = found[3]
				continue
			}
		}
		switch {
		case !inside, strings.HasPrefix(strings.TrimSpace(bare), "#"):
			rest = append(rest, line)
		case sub == "" && strings.TrimSpace(bare) != "" && !ownedLine.MatchString(bare):
			kept = append(kept, line)
		}
	}
	if len(rest) == 0 {
		rest = []string{""}
	}
	return rest, kept
}

// firstHost is the line of the first mirror, with the comments right above it; less
// than zero if there is none.
func firstHost(lines []string) int {
	for i, line := range lines {
		bare := strings.TrimRight(line, "\r\n")
		if hostLine.MatchString(bare) {
			for i > 0 && strings.HasPrefix(strings.TrimSpace(lines[i-1]), "#") {
				i--
			}
			return i
		}
	}
	return -1
}
