# As much of nixpkgs' lib as this directory's files and those that they test use, of our own: a module system with types,
# priorities and submodules, and small functions under their names there. So tests need no nixpkgs.
let
  inherit (builtins)
    all
    any
    attrNames
    attrValues
    concatLists
    concatMap
    concatStringsSep
    elem
    elemAt
    filter
    foldl'
    functionArgs
    genList
    head
    isAttrs
    isBool
    isFloat
    isFunction
    isInt
    isList
    isPath
    isString
    length
    listToAttrs
    mapAttrs
    match
    replaceStrings
    stringLength
    substring
    tail
    toString
    ;

  show = concatStringsSep ".";
  isKind = kind: value: isAttrs value && value._type or null == kind;

  # Values with properties.
  mkIf = condition: content: {
    _type = "if";
    inherit condition content;
  };
  mkMerge = contents: {
    _type = "merge";
    inherit contents;
  };
  mkOverride = priority: content: {
    _type = "override";
    inherit priority content;
  };
  mkOption = option: option // { _type = "option"; };

  # The sets of a definition, whose properties are those of the values in them: so names are known before conditions.
  sets =
    value:
    if isKind "merge" value then
      concatMap sets value.contents
    else if isKind "if" value then
      map (mapAttrs (_: mkIf value.condition)) (sets value.content)
    else if isKind "override" value then
      map (mapAttrs (_: mkOverride value.priority)) (sets value.content)
    else
      [ value ];

  # The values of a definition, with their priorities.
  values =
    priority: value:
    if isKind "merge" value then
      concatMap (values priority) value.contents
    else if isKind "if" value then
      if value.condition then values priority value.content else [ ]
    else if isKind "override" value then
      values value.priority value.content
    else
      [ { inherit priority value; } ];

  # The strongest of some definitions.
  strongest =
    definitions:
    let
      found = concatMap (values 100) definitions;
      least = foldl' (least: { priority, ... }: if priority < least then priority else least) 10000 found;
    in
    map ({ value, ... }: value) (filter ({ priority, ... }: priority == least) found);

  names = definitions: attrNames (foldl' (all: set: all // set) { } definitions);
  of = name: concatMap (set: if set ? ${name} then [ set.${name} ] else [ ]);

  merged =
    loc: type: definitions:
    let
      wrong = filter (value: !type.check value) definitions;
      text = value: if isString value || isInt value then toString value else builtins.typeOf value;
    in
    if wrong != [ ] then
      throw "A definition for option `${show loc}' is not of type `${type.name}': ${text (head wrong)}"
    else
      type.merge loc definitions;

  value =
    loc: option: definitions:
    let
      given = definitions ++ (if option ? default then [ (mkOverride 1500 option.default) ] else [ ]);
      found = strongest given;
      type = option.type or types.unspecified;
    in
    if found == [ ] && !(type ? empty) then
      throw "The option `${show loc}' is used but not defined."
    else if found == [ ] then
      type.empty loc
    else
      merged loc type found;

  # A tree of options, and what is defined for it.
  tree =
    loc: options: definitions:
    let
      below = concatMap sets definitions;
      unknown = filter (name: !options ? ${name}) (names below);
    in
    if unknown != [ ] then
      throw "The option `${show (loc ++ [ (head unknown) ])}' does not exist."
    else
      mapAttrs (
        name: option:
        (if isKind "option" option then value else tree) (loc ++ [ name ]) option (of name below)
      ) options;

  declared =
    loc: a: b:
    if isKind "option" a || isKind "option" b then
      if a ? type.values && b ? type.values then
        a // b // { type = types.enum (a.type.values ++ b.type.values); }
      else
        throw "The option `${show loc}' is declared twice."
    else
      a
      // mapAttrs (
        name: option: if a ? ${name} then declared (loc ++ [ name ]) a.${name} option else option
      ) b;

  # A module and all that it imports, each file once, in nixpkgs' order: what is imported comes first.
  collected =
    arguments: modules:
    let
      plain =
        module:
        let
          loaded = if isPath module || isString module then import module else module;
          value = if isFunction loaded then loaded arguments else loaded;
        in
        if value ? config || value ? options then
          value
        else
          {
            config = removeAttrs value [ "imports" ];
            imports = value.imports or [ ];
          };
      fresh =
        seen: modules:
        foldl' (
          new: module:
          if (isPath module || isString module) && elem module (seen ++ new) then new else new ++ [ module ]
        ) [ ] modules;
      level =
        seen: modules:
        let
          new = fresh seen modules;
          here = map plain new;
          below = concatMap (module: module.imports or [ ]) here;
        in
        if new == [ ] then
          [ ]
        else
          level (seen ++ filter (m: isPath m || isString m) new) below ++ reversed here;
    in
    level [ ] modules;

  evalIn =
    loc: specialArgs: modules:
    let
      found = collected arguments modules;
      options = foldl' (declared loc) { } (map (module: module.options or { }) found);
      config = tree loc options (map (module: module.config or { }) found);
      arguments = specialArgs // {
        inherit config options lib;
      };
    in
    {
      inherit config options;
    };

  evalModules =
    {
      modules,
      specialArgs ? { },
    }:
    evalIn [ ] specialArgs modules;

  same =
    loc: values:
    if all (value: value == head values) values then
      head values
    else
      throw "The option `${show loc}' has conflicting definition values.";

  plain = name: check: {
    inherit name check;
    merge = same;
  };

  attrsOf = type: {
    name = "attribute set of ${type.name}";
    check = value: isAttrs value && !(value ? outPath);
    empty = _: { };
    merge =
      loc: definitions:
      let
        below = concatMap sets definitions;
        defined = filter (name: strongest (of name below) != [ ]) (names below);
      in
      listToAttrs (
        map (name: {
          inherit name;
          value = value (loc ++ [ name ]) { inherit type; } (of name below);
        }) defined
      );
  };

  listOf = type: {
    name = "list of ${type.name}";
    check = isList;
    empty = _: [ ];
    merge =
      loc: lists:
      let
        one = n: item: value (loc ++ [ "[${toString n}]" ]) { inherit type; } [ item ];
      in
      imap0 one (concatLists lists);
  };

  either = a: b: {
    name = "${a.name} or ${b.name}";
    check = value: a.check value || b.check value;
    merge = loc: values: if all a.check values then a.merge loc values else b.merge loc values;
  };

  submodule = module: {
    name = "submodule";
    check = value: isAttrs value || isFunction value;
    empty = loc: submodule.merge loc [ { } ];
    merge =
      loc: values:
      let
        name = elemAt loc (length loc - 1);
        as = value: if isFunction value then value else { config = value; };
      in
      (evalIn loc { inherit name; } ([ module ] ++ map as values)).config;
  };

  types = {
    inherit
      attrsOf
      either
      listOf
      submodule
      ;
    bool = plain "boolean" isBool;
    int = plain "integer" isInt;
    float = plain "number" isFloat;
    str = plain "string" isString;
    nonEmptyStr = plain "non-empty string" (value: isString value && value != "");
    ints.positive = plain "positive integer" (value: isInt value && value > 0);
    ints.unsigned = plain "unsigned integer" (value: isInt value && value >= 0);
    port = plain "port" (value: isInt value && value >= 0 && value < 65536);
    path = plain "absolute path" (
      value: isPath value || (isString value || value ? outPath) && substring 0 1 "${value}" == "/"
    );
    package = plain "package" (value: isAttrs value && value ? outPath) // {
      merge = _: head;
    };
    pkgs = plain "packages" (isKind "pkgs") // {
      merge = _: head;
    };
    attrs = {
      name = "attribute set";
      check = isAttrs;
      empty = _: { };
      merge = _: foldl' (all: set: all // set) { };
    };
    lines = plain "lines" isString // {
      merge = _: concatStringsSep "\n";
    };
    enum =
      values:
      plain "one of ${concatStringsSep ", " (map toString values)}" (value: elem value values)
      // {
        inherit values;
      };
    nullOr = type: {
      name = "null or ${type.name}";
      check = value: value == null || type.check value;
      merge = loc: values: if all (value: value == null) values then null else type.merge loc values;
    };
    oneOf = foldl' either (plain "none" (_: false));
    # A value that nobody looks into, and one that is put together all the way down.
    unspecified = plain "anything" (_: true) // {
      merge = _: head;
    };
    anything = {
      name = "anything";
      check = _: true;
      merge =
        loc: values:
        if all (value: isAttrs value && !(value ? outPath)) values then
          (attrsOf types.anything).merge loc values
        else if all isList values then
          concatLists values
        else
          same loc values;
    };
  };

  reversed = list: genList (n: elemAt list (length list - 1 - n)) (length list);
  imap0 = f: list: genList (n: f n (elemAt list n)) (length list);
  optional = condition: item: if condition then [ item ] else [ ];
  hasPrefix = prefix: text: substring 0 (stringLength prefix) text == prefix;
  mapAttrsToList = f: set: map (name: f name set.${name}) (attrNames set);
  concatMapStrings = f: list: concatStringsSep "" (map f list);
  recursiveUpdate =
    a: b:
    a
    // mapAttrs (
      name: value:
      if a ? ${name} && isAttrs a.${name} && isAttrs value then recursiveUpdate a.${name} value else value
    ) b;
  filterAttrs =
    keep: set:
    listToAttrs (
      map (name: {
        inherit name;
        value = set.${name};
      }) (filter (name: keep name set.${name}) (attrNames set))
    );
  escapeShellArg =
    argument:
    let
      text = toString argument;
    in
    if match "[a-zA-Z0-9,._+:@%/=-]+" text != null then
      text
    else
      "'${replaceStrings [ "'" ] [ "'\\''" ] text}'";

  lib = {
    inherit
      all
      any
      attrNames
      attrValues
      concatLists
      concatMap
      concatMapStrings
      concatStringsSep
      elem
      escapeShellArg
      evalModules
      filter
      filterAttrs
      foldl'
      functionArgs
      hasPrefix
      head
      imap0
      isList
      length
      listToAttrs
      mapAttrs
      mapAttrsToList
      mkIf
      mkMerge
      mkOption
      mkOverride
      optional
      recursiveUpdate
      replaceStrings
      tail
      types
      ;
    mkDefault = mkOverride 1000;
    mkForce = mkOverride 50;
    mkEnableOption =
      what:
      mkOption {
        type = types.bool;
        default = false;
        description = "Whether to enable ${what}.";
      };
    literalExpression = text: text;
    optionals = condition: list: if condition then list else [ ];
    optionalString = condition: text: if condition then text else "";
    optionalAttrs = condition: set: if condition then set else { };
    min = a: b: if a < b then a else b;
    concatMapStringsSep =
      separator: f: list:
      concatStringsSep separator (map f list);
    zipListsWith =
      f: a: b:
      genList (n: f (elemAt a n) (elemAt b n)) (if length a < length b then length a else length b);
    genAttrs =
      names: f:
      listToAttrs (
        map (name: {
          inherit name;
          value = f name;
        }) names
      );
    filterAttrsRecursive =
      keep: set:
      mapAttrs (_: value: if isAttrs value then lib.filterAttrsRecursive keep value else value) (
        filterAttrs keep set
      );
    removePrefix =
      prefix: text:
      if hasPrefix prefix text then substring (stringLength prefix) (stringLength text) text else text;
    escapeShellArgs = list: concatStringsSep " " (map escapeShellArg list);
    getExe' = package: program: "${package}/bin/${program}";
    getExe = package: "${package}/bin/${package.meta.mainProgram or package.pname}";
    licenses = {
      asl20 = "Apache-2.0";
      bsd3 = "BSD-3-Clause";
    };
    kernel = {
      yes = "y";
      no = "n";
      module = "m";
    };
  };
in
lib
