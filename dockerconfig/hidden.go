package dockerconfig

import (
	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/problem"
)

// Hidden is an error if a credential helper answers for one of the hosts, so
// that clients never look at what is delivered. where names the document for
// people. The error is a [problem.Error] of kind [problem.Config].
func (d *Document) Hidden(where string, hosts []credential.Host) error {
	for _, host := range hosts {
		if helper, ok := d.Helper(host); ok {
			return problem.New(problem.Config,
				`remove "credsStore" there, or add "credHelpers": {"`+host.Key()+`": ""} so that clients read the file`,
				"%s: the credential helper %q answers for %s, and what is delivered is never used", where, helper, host)
		}
	}
	return nil
}
