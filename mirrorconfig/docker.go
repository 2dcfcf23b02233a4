package mirrorconfig

import (
	"encoding/json"
	"slices"

	"github.com/tailscale/hujson"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/internal/disk"
	"github.com/regkeeper/regkeeper/problem"
)

// The keys of daemon.json (Docker's documentation, "dockerd", Daemon configuration
// file).
const (
	keyMirrors  = "registry-mirrors"
	keyInsecure = "insecure-registries"
)

// Docker adds a mirror to a daemon.json, and a mirror without TLS to the registries
// that may have none. dockerd reads both anew on SIGHUP.
//
// dockerd has mirrors of Docker Hub alone, whose address has no path, to which it
// does not tell of which registry a repository is, and whose login it takes from
// nowhere but the address; any other [Mirror] is an error of kind [problem.Usage].
// The embedded registry serves dockerd as a mirror under a name of its own: see
// Upstream.Names there. The error is of kind [problem.Damaged] for a document that
// is no JSON.
func Docker(text []byte, m Mirror) ([]byte, error) {
	return docker(text, m, true)
}

// RemoveDocker takes a mirror out of a daemon.json. The other registries without
// TLS stay, and so does the mirror's host among them while another mirror uses it.
func RemoveDocker(text []byte, m Mirror) ([]byte, error) {
	return docker(text, m, false)
}

func docker(text []byte, m Mirror, wanted bool) ([]byte, error) {
	u, err := m.check()
	if err != nil {
		return nil, err
	}
	switch {
	case m.Host != credential.DockerHub:
		return nil, problem.New(problem.Usage, "pull by the mirror's own name, or use containerd or K3s", "dockerd has no mirrors of %s, only of Docker Hub", m.Host)
	case m.Prefix != "" || m.Login != nil:
		return nil, problem.New(problem.Usage, "serve the mirror under a host of its own that needs no prefix", "dockerd's mirrors have neither a prefix nor a login")
	}
	d, err := parseDaemon(text)
	if err != nil {
		return nil, err
	}
	address := u.String() + "/"
	if slices.Contains(d.lists[keyMirrors], u.String()) {
		address = u.String()
	}
	if err := d.list(keyMirrors, address, wanted); err != nil {
		return nil, err
	}
	if u.Scheme == "http" {
		if err := d.list(keyInsecure, u.Host, wanted); err != nil {
			return nil, err
		}
	}
	return d.value.Pack(), nil
}

// daemon is a daemon.json.
type daemon struct {
	value hujson.Value
	lists map[string][]string
}

func parseDaemon(text []byte) (*daemon, error) {
	fault := func(why string) error {
		return problem.New(problem.Damaged, disk.DamagedHint, "daemon.json %s", why)
	}
	empty := len(trim(text)) == 0
	if empty {
		text = []byte("{\n}\n")
	}
	value, err := hujson.Parse(text)
	if err != nil || !value.IsStandard() {
		return nil, fault("is no JSON that dockerd could read")
	}
	if _, ok := value.Value.(*hujson.Object); !ok {
		return nil, fault("is no object")
	}
	d := &daemon{value: value, lists: map[string][]string{}}
	for _, key := range []string{keyMirrors, keyInsecure} {
		found := value.Find("/" + key)
		if found == nil {
			continue
		}
		var list []string
		if err := json.Unmarshal(found.Pack(), &list); err != nil || list == nil {
			return nil, fault(`has "` + key + `" that is no list of texts`)
		}
		d.lists[key] = list
	}
	return d, nil
}

func trim(text []byte) []byte {
	return slices.DeleteFunc(slices.Clone(text), func(b byte) bool { return b == ' ' || b == '\t' || b == '\r' || b == '\n' })
}

// list has an item in a list, first, or not. A list that this empties goes.
func (d *daemon) list(key, item string, wanted bool) error {
	list, there := d.lists[key]
	at := slices.Index(list, item)
	if wanted == (at >= 0) {
		return nil
	}
	if !wanted {
		list = slices.Delete(slices.Clone(list), at, at+1)
	} else {
		list = append([]string{item}, list...)
	}
	d.lists[key] = list
	object := d.value.Value.(*hujson.Object)
	if !there {
		member := hujson.ObjectMember{Name: hujson.Value{Value: hujson.String(key), BeforeExtra: hujson.Extra("\n  ")}, Value: array(list)}
		if n := len(object.Members); n > 0 {
			member.Name.BeforeExtra = slices.Clone(object.Members[n-1].Name.BeforeExtra)
		}
		object.Members = append(object.Members, member)
		return nil
	}
	for i := range object.Members {
		name, ok := object.Members[i].Name.Value.(hujson.Literal)
		if !ok || name.String() != key {
			continue
		}
		if len(list) == 0 {
			object.Members = slices.Delete(object.Members, i, i+1)
			return nil
		}
		next := array(list)
		old := object.Members[i].Value
		next.BeforeExtra, next.AfterExtra = old.BeforeExtra, old.AfterExtra
		object.Members[i].Value = next
		return nil
	}
	return problem.New(problem.Damaged, disk.DamagedHint, "daemon.json has no %q of its own", key)
}

func array(list []string) hujson.Value {
	all := &hujson.Array{}
	for i, item := range list {
		one := hujson.Value{Value: hujson.String(item)}
		if i > 0 {
			one.BeforeExtra = hujson.Extra(" ")
		}
		all.Elements = append(all.Elements, one)
	}
	return hujson.Value{Value: all, BeforeExtra: hujson.Extra(" ")}
}
