package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/common/model"
	"github.com/spf13/cobra"

	"github.com/regkeeper/regkeeper/app"
	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/registry/builtin"
)

func newRegistry(e *env) *cobra.Command {
	group := &cobra.Command{Use: "registry", Short: "Manage the embedded registry"}
	token := &cobra.Command{Use: "token", Short: "Create, list and revoke the embedded registry's tokens"}
	token.AddCommand(newTokenCreate(e), newTokenList(e), newTokenRevoke(e))
	group.AddCommand(token, newRegistryCollect(e))
	return group
}

// createdToken is a token as it is told once.
type createdToken struct {
	builtin.Token
	Secret string `json:"token"`
}

func newTokenCreate(e *env) *cobra.Command {
	var request struct {
		name, user, expires  string
		scopes, repositories []string
	}
	c := &cobra.Command{
		Use:   "create",
		Short: "Create a token and print it, once",
		Long: `Create makes a token for the embedded registry. Its secret is printed once and
stored as a hash. The token works at once, also in a running daemon.`,
		Example: example(
			"regkeeper registry token create --name laptop --scope pull --scope push",
			"regkeeper registry token create --name ci --scope pull --repository 'team/*' --expires 24h -o json | jq -r .token"),
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if request.name == "" {
				return problem.New(problem.Usage, "say what the token is for, for example --name laptop", "--name is missing")
			}
			_, folder, err := e.locate()
			if err != nil {
				return err
			}
			ask := builtin.TokenRequest{User: request.user, Name: request.name, Repositories: request.repositories}
			for _, scope := range request.scopes {
				ask.Scopes = append(ask.Scopes, credential.Scope(scope))
			}
			if request.expires != "" {
				life, err := model.ParseDuration(request.expires)
				if err != nil || life <= 0 {
					return problem.New(problem.Usage, "write it as 30d, 24h or 90m", "--expires %q cannot be read", request.expires)
				}
				ask.Expires = time.Now().Add(time.Duration(life))
			}
			tokens, err := app.OpenTokens(folder)
			if err != nil {
				return err
			}
			token, secret, err := tokens.Create(c.Context(), ask)
			if err != nil {
				return err
			}
			if e.json() {
				return e.printJSON(createdToken{Token: token, Secret: secret.Reveal()})
			}
			e.printf("%s\n", secret.Reveal())
			// To standard error, so that the token can be taken by a script.
			_, err = fmt.Fprintf(e.Err, "It is shown this once. Log in with:\n  docker login REGISTRY --username %s --password-stdin\n", token.User)
			return err
		},
	}
	flags := c.Flags()
	flags.StringVar(&request.name, "name", "", "what the token is called; unique for its user (required)")
	flags.StringVar(&request.user, "user", "regkeeper", "the name to log in with")
	flags.StringSliceVar(&request.scopes, "scope", []string{"pull"}, "a right: pull, push or delete; may be repeated")
	flags.StringSliceVar(&request.repositories, "repository", []string{"*"}, "where the rights hold: a name, 'team/*' for all below, '*' for all; may be repeated")
	flags.StringVar(&request.expires, "expires", "", "how long the token is good for, such as 24h or 30d (default: until it is revoked)")
	_ = c.RegisterFlagCompletionFunc("scope", cobra.FixedCompletions([]string{"pull", "push", "delete"}, cobra.ShellCompDirectiveNoFileComp))
	return c
}

func newTokenList(e *env) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the tokens, never their secrets",
		Example: example("regkeeper registry token list", "regkeeper registry token list -o json"),
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			_, list, err := e.tokens(c.Context())
			if err != nil {
				return err
			}
			if e.json() {
				if list == nil {
					list = []builtin.Token{}
				}
				return e.printJSON(list)
			}
			var rows [][]string
			for _, t := range list {
				rows = append(rows, []string{
					t.ID, t.User, t.Name, t.Scopes.String(), join(t.Repositories), ago(&t.Created), ago(moment(t.Expires)), ago(moment(t.Used)),
				})
			}
			return e.table("ID USER NAME SCOPES REPOSITORIES CREATED EXPIRES USED", rows)
		},
	}
}

func newTokenRevoke(e *env) *cobra.Command {
	return &cobra.Command{
		Use:   "revoke ID|NAME...",
		Short: "End tokens; they are refused from the next request on",
		Example: example("regkeeper registry token revoke rkt0123456789abcdef",
			"regkeeper registry token revoke laptop"),
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			tokens, list, err := e.tokens(c.Context())
			if err != nil {
				return err
			}
			var revoked []string
			for _, arg := range args {
				token, err := findToken(list, arg)
				if err != nil {
					return err
				}
				revoked = append(revoked, token.ID)
			}
			for _, id := range revoked {
				if err := tokens.Revoke(c.Context(), id); err != nil {
					return err
				}
			}
			if e.json() {
				return e.printJSON(map[string]any{"revoked": revoked})
			}
			for _, id := range revoked {
				e.printf("revoked %s\n", id)
			}
			return nil
		},
	}
}

// tokens are those of the data folder, and the store they are in.
func (e *env) tokens(ctx context.Context) (*builtin.TokenStore, []builtin.Token, error) {
	_, folder, err := e.locate()
	if err != nil {
		return nil, nil, err
	}
	store, err := app.OpenTokens(folder)
	if err != nil {
		return nil, nil, err
	}
	list, err := store.List(ctx)
	return store, list, err
}

// findToken finds a token by id, or by a name that only one has.
func findToken(list []builtin.Token, word string) (builtin.Token, error) {
	var found []builtin.Token
	for _, t := range list {
		if t.ID == word {
			return t, nil
		}
		if t.Name == word {
			found = append(found, t)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return builtin.Token{}, problem.New(problem.NotFound, "regkeeper registry token list shows them", "there is no token %q", word)
	}
	return builtin.Token{}, problem.New(problem.Usage, "use the id", "%d users have a token named %q", len(found), word)
}
