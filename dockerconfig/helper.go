package dockerconfig

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/tailscale/hujson"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/internal/disk"
	"github.com/regkeeper/regkeeper/problem"
)

// helpersName is the member that names a credential helper for each registry.
const helpersName = "credHelpers"

// HelperKeys are the keys under "credHelpers" by which clients look for the
// registry's helper. They are compared as they stand. For Docker Hub they differ:
// docker, go-containerregistry and ORAS look for its key under "auths" (docker/cli,
// cli/config/configfile, getConfiguredCredentialStore), and podman, buildah and skopeo
// for its name (containers/image, pkg/docker/config, findCredentialsInFile).
func HelperKeys(host credential.Host) []string {
	if host == credential.DockerHub {
		return []string{host.Key(), string(host)}
	}
	return []string{host.Key()}
}

// SetHelper makes the helper of that name the one that clients ask for the registry's
// login, in place of whatever stands under its keys. It says whether that changed the
// document. The error is a [problem.Error] of kind [problem.Damaged]: "credHelpers" is
// no object.
func (d *Document) SetHelper(host credential.Host, name string) (changed bool, err error) {
	if err := d.checkHelpers(); err != nil {
		return false, err
	}
	for _, key := range HelperKeys(host) {
		changed = d.setHelper(key, name) || changed
	}
	return changed, nil
}

func (d *Document) setHelper(key, name string) (changed bool) {
	value := hujson.Value{Value: hujson.String(name)}
	all := d.helpers()
	var inForce *hujson.ObjectMember
	count := 0
	for _, member := range all {
		object, ok := member.Value.Value.(*hujson.Object)
		if !ok {
			inForce = nil // null takes back what stands before it
			continue
		}
		if found := members(object, key); len(found) > 0 {
			inForce = found[len(found)-1]
			count += len(found)
		}
	}
	if inForce != nil && count == 1 {
		if v := inForce.Value; v.Value.Kind() == '"' && text(v) == name {
			return false
		}
		inForce.Value.Value = value.Value
		return true
	}
	for _, member := range all {
		if object, ok := member.Value.Value.(*hujson.Object); ok {
			remove(object, key)
		}
	}
	if n := len(all); n == 0 || n > 1 && all[n-1].Value.Value.Kind() == 'n' {
		// A null in last place stays; see Set.
		d.insert(&d.root, 0, helpersName, hujson.Value{Value: &hujson.Object{}})
		all = d.helpers()
	}
	last := all[len(all)-1]
	if _, ok := last.Value.Value.(*hujson.Object); !ok {
		last.Value.Value = &hujson.Object{}
	}
	d.insert(&last.Value, 1, key, value)
	return true
}

// RemoveHelper takes the helper of that name away under the keys that of says yes
// to, and returns these keys. Other helpers stay. If none is left, "credHelpers" goes
// too, as the docker CLI leaves it out.
func (d *Document) RemoveHelper(name string, of func(key string) bool) (removed []string) {
	for _, member := range d.helpers() {
		object, ok := member.Value.Value.(*hujson.Object)
		if !ok {
			continue
		}
		for _, key := range names(object) {
			found := members(object, key)
			if v := found[len(found)-1].Value; of(key) && v.Value.Kind() == '"' && text(v) == name && remove(object, key) {
				removed = append(removed, key)
			}
		}
	}
	if len(removed) == 0 {
		return nil
	}
	empty := !slices.ContainsFunc(d.helpers(), func(m *hujson.ObjectMember) bool {
		object, ok := m.Value.Value.(*hujson.Object)
		return ok && len(object.Members) > 0
	})
	if empty {
		for _, member := range d.helpers() {
			remove(d.object(), text(member.Name))
		}
	}
	slices.Sort(removed)
	return slices.Compact(removed)
}

// HelpedBy are the keys under "credHelpers" for which clients ask the helper of that
// name, sorted.
func (d *Document) HelpedBy(name string) []string {
	return d.Clone().RemoveHelper(name, func(string) bool { return true })
}

// GlobalHelper is the helper that clients ask for all registries that have none of
// their own: "credsStore". It is empty if there is none.
func (d *Document) GlobalHelper() string {
	var fields struct {
		CredsStore string `json:"credsStore"`
	}
	// A value of another type makes the clients fail on their own account.
	_ = json.Unmarshal(d.root.Pack(), &fields)
	return fields.CredsStore
}

// Entry says whether there is an entry for the registry under "auths", of whatever
// form.
func (d *Document) Entry(host credential.Host) bool { return d.entry(host.Key()) != nil }

// checkHelpers is an error if clients cannot read "credHelpers".
func (d *Document) checkHelpers() error {
	for _, member := range d.helpers() {
		if k := member.Value.Value.Kind(); k != '{' && k != 'n' {
			d.root.UpdateOffsets()
			line, column := position(d.root.Pack(), member.Value.StartOffset)
			return problem.New(problem.Damaged, disk.DamagedHint, "%q is no object at line %d, column %d", helpersName, line, column)
		}
	}
	return nil
}

// helpers lists the outer members that the clients' parser takes for "credHelpers";
// see auths.
func (d *Document) helpers() []*hujson.ObjectMember {
	var found []*hujson.ObjectMember
	for i := range d.object().Members {
		if member := &d.object().Members[i]; strings.EqualFold(text(member.Name), helpersName) {
			found = append(found, member)
		}
	}
	return found
}
