package dockerconfig

import (
	"maps"
	"slices"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/problem"
)

// LoginsFor are those that the document has for the hosts, as [Document.Login] has each.
func (d *Document) LoginsFor(hosts []credential.Host) map[credential.Host]credential.Login {
	logins := map[credential.Host]credential.Login{}
	for _, host := range hosts {
		if login, ok := d.Login(host); ok {
			logins[host] = login
		}
	}
	return logins
}

// Merge sets the logins, in the order of their hosts.
func (d *Document) Merge(logins map[credential.Host]credential.Login) (changed bool) {
	for _, host := range slices.Sorted(maps.Keys(logins)) {
		changed = d.Set(host, logins[host]) || changed
	}
	return changed
}

// Held are the logins for the hosts in a document that where names for people. The
// errors are those of [Parse] and [Document.Hidden].
func Held(where string, text []byte, hosts []credential.Host) (map[credential.Host]credential.Login, error) {
	doc, err := read(where, text, hosts)
	if err != nil {
		return nil, err
	}
	return doc.LoginsFor(hosts), nil
}

// Delivered is the document with the logins merged into it. The errors are those of
// [Held]: a secret that nobody reads is better not there.
func Delivered(where string, text []byte, logins map[credential.Host]credential.Login) (after []byte, changed bool, err error) {
	doc, err := read(where, text, slices.Sorted(maps.Keys(logins)))
	if err != nil {
		return nil, false, err
	}
	changed = doc.Merge(logins)
	return doc.Bytes(), changed, nil
}

// read parses a document in which no credential helper answers for the hosts.
func read(where string, text []byte, hosts []credential.Host) (*Document, error) {
	doc, err := Parse(text)
	if err != nil {
		return nil, problem.Wrap(err, problem.KindOf(err), "", "%s", where)
	}
	return doc, doc.Hidden(where, hosts)
}
