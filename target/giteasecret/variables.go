package giteasecret

import (
	"context"
	"maps"
	"slices"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/dockerconfig"
)

// Variables delivers to variables, which whoever may change the repository's
// Actions can read, and which the logs of jobs do not hide. A place is the path
// of a variable in the server's API, as repos/acme/app/variables/NAME. The server
// knows no compare-and-swap: of two writers at the same moment, the later wins.
type Variables struct{ config Config }

var _ credential.Target = (*Variables)(nil)

// NewVariables makes the target of variables. It sends nothing yet. Adopt and
// AnyRegistry of the configuration do not matter.
func NewVariables(config Config) *Variables {
	config.AnyRegistry = true // runners log in with secrets alone
	return &Variables{config: config}
}

// Places lists the variables as they are configured, sorted. It asks no server.
func (v *Variables) Places(context.Context) ([]credential.Place, error) {
	if err := v.config.Check(); err != nil {
		return nil, err
	}
	return v.config.places(variables), nil
}

// read reads the variables of a place; those that are not there are left out.
func (v *Variables) read(c *client, at spot) (texts map[string]string, err error) {
	texts = map[string]string{}
	for _, name := range v.config.names() {
		text, ok, err := c.variable(at, name)
		if err != nil {
			return nil, err
		}
		if ok {
			texts[name] = text
		}
	}
	return texts, nil
}

// Held reads the variables.
func (v *Variables) Held(ctx context.Context, place credential.Place, hosts []credential.Host) (map[credential.Host]credential.Login, error) {
	at, c, err := v.config.open(ctx, variables, place)
	if err != nil {
		return nil, err
	}
	texts, err := v.read(c, at)
	if err != nil {
		return nil, err
	}
	names := v.config.names()
	if v.config.Prefix != "" {
		held := map[credential.Host]credential.Login{}
		username, hasUsername := texts[names[0]]
		password, hasPassword := texts[names[1]]
		if hasUsername && hasPassword && slices.Contains(hosts, v.config.Host) {
			held[v.config.Host] = credential.Login{Username: username, Secret: credential.NewSecret(password)}
		}
		return held, nil
	}
	return dockerconfig.Held(string(place), []byte(texts[names[0]]), hosts)
}

// Deliver writes the logins into the variables, and keeps what else is in a
// config.json. It writes nothing that is there already. Of a username and a
// password that both change, a job that starts in between finds one of each.
func (v *Variables) Deliver(ctx context.Context, place credential.Place, logins map[credential.Host]credential.Login) error {
	at, c, err := v.config.open(ctx, variables, place)
	if err != nil || len(logins) == 0 {
		return err
	}
	for _, host := range slices.Sorted(maps.Keys(logins)) {
		if v.config.Prefix != "" && host != v.config.Host {
			return v.config.otherHost(place, host)
		}
		c.conceal = append(c.conceal, logins[host])
	}
	texts, err := v.read(c, at)
	if err != nil {
		return err
	}
	wanted := v.config.contents(logins)
	if v.config.Prefix == "" {
		after, _, err := dockerconfig.Delivered(string(place), []byte(texts[wanted[0].name]), logins)
		if err != nil {
			return err
		}
		wanted[0].text = string(after)
	}
	for _, variable := range wanted {
		before, there := texts[variable.name]
		if there && before == variable.text {
			continue
		}
		if err := c.setVariable(at, variable.name, variable.text, there); err != nil {
			return err
		}
	}
	return nil
}
